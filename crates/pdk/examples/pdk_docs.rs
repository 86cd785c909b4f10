//! Writes docs/pdk.md from the table of functions.

fn main() -> std::io::Result<()> {
    std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/pdk.md"), silverback_pdk::reference::page())
}
