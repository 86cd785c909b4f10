//! Compiles the wire schema: its messages become prost types, its service the table of PDK methods.

use std::{env, error::Error, fmt::Write, fs, path::PathBuf};

use protox::prost_reflect::{DescriptorPool, MethodDescriptor, prost::Message};

const SCHEMA: &str = "kong_plugin_protocol.proto";

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo::rerun-if-changed={}", folder.join(SCHEMA).display());
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let mut compiler = protox::Compiler::new([&folder])?;
    compiler.include_imports(true).open_file(SCHEMA)?;
    prost_build::Config::new()
        .bytes(["."])
        .btree_map(["."])
        .out_dir(&out)
        .compile_fds(prost_types::FileDescriptorSet::decode(compiler.encode_file_descriptor_set().as_slice())?)?;
    fs::write(out.join("methods.rs"), method_table(&compiler.descriptor_pool())?)?;
    Ok(())
}

/// `&[("kong.client.get_ip", Message::Empty, Message::String), ...]`, sorted by name.
fn method_table(pool: &DescriptorPool) -> Result<String, Box<dyn Error>> {
    let service = pool.get_service_by_name("kong_plugin_protocol.Kong").ok_or("the schema has no service Kong")?;
    let option = pool
        .get_extension_by_name("kong_plugin_protocol.MethodName")
        .ok_or("the schema has no method option MethodName")?;
    let pdk_name = |method: &MethodDescriptor| {
        let options = method.options();
        let given = options.has_extension(&option).then(|| options.get_extension(&option).as_str().map(str::to_owned));
        given.flatten().unwrap_or_else(|| name_by_rule(method.name()))
    };
    let mut rows: Vec<_> = service
        .methods()
        .map(|method| (pdk_name(&method), method.input().name().to_owned(), method.output().name().to_owned()))
        .collect();
    rows.sort();
    let mut table = String::from("&[\n");
    for (name, input, output) in rows {
        writeln!(table, "    ({name:?}, Message::{input}, Message::{output}),")?;
    }
    table.push(']');
    Ok(table)
}

/// `Service_Request_SetHeader` is `kong.service.request.set_header`.
fn name_by_rule(method: &str) -> String {
    let mut name = String::from("kong.");
    let mut in_word = false; // the last letter was a lower-case one; digits may have followed it
    for c in method.chars() {
        match c {
            '_' => name.push('.'),
            c if c.is_ascii_uppercase() => {
                if in_word {
                    name.push('_');
                }
                name.push(c.to_ascii_lowercase());
            }
            c => name.push(c),
        }
        in_word = c.is_ascii_lowercase() || (in_word && c.is_ascii_digit());
    }
    name
}
