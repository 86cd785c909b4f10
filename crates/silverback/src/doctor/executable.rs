//! Whether a file can be run on this machine. The kernel says "no such file" of an executable whose loader, and of a script
//! whose interpreter, is missing: what is missing is in the file.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use super::program::{self, Missing};

/// Program headers that are looked at; real files have a dozen.
const MAX_HEADERS: u16 = 256;
const MAX_NAME: u64 = 4096;
const PT_INTERP: u32 = 3;

/// What an ELF file says of where it runs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Elf {
    machine: u16,
    little_endian: bool,
    /// The loader; `None`: it is static.
    interpreter: Option<PathBuf>,
}

/// A fault of a file, with its cure.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) cure: String,
}

/// Why a file that is there and may be run cannot; `path` is where its interpreter may be looked for.
pub(super) fn fault(file: &Path, path: &str) -> Option<Fault> {
    let mut begin = [0; 256];
    let read = File::open(file).and_then(|mut file| file.read(&mut begin));
    let begin = match read {
        Ok(length) => begin.get(..length).unwrap_or_default(),
        // it may still be executable for those who cannot read it
        Err(_) => return None,
    };
    if let Some(line) = begin.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        return script(file, &String::from_utf8_lossy(line), path);
    }
    if !begin.starts_with(b"\x7fELF") {
        return Some(Fault {
            code: "not_a_program",
            message: format!("{} is neither an executable for Linux nor a script that begins with #!", file.display()),
            cure: "put the interpreter before it in the command, or #! and its path into its first line".to_owned(),
        });
    }
    match Elf::read(file) {
        Ok(elf) => elf.fault(file),
        Err(_) => Some(Fault {
            code: "damaged_executable",
            message: format!("{} begins like an executable, but is cut off or damaged", file.display()),
            cure: "copy or build it again".to_owned(),
        }),
    }
}

/// Whether a program is linked without a loader, as Go builds it without cgo.
pub(super) fn is_static(file: &Path) -> bool {
    Elf::read(file).is_ok_and(|elf| elf.interpreter.is_none())
}

fn script(file: &Path, line: &str, path: &str) -> Option<Fault> {
    let shown = file.display();
    let missing = |what: &str, cure: &str| {
        Some(Fault {
            code: "interpreter_missing",
            message: format!("{shown} is a script for {what}, which is not there: running it says \"not found\""),
            cure: cure.to_owned(),
        })
    };
    if line.ends_with('\r') {
        return Some(Fault {
            code: "interpreter_missing",
            message: format!(
                "the first line of {shown} ends with a carriage return, which counts for its interpreter's name"
            ),
            cure: format!("convert its line ends: sed -i 's/\\r$//' {shown}"),
        });
    }
    let mut words = line.split_whitespace();
    let interpreter = words.next()?;
    if !Path::new(interpreter).exists() {
        return missing(interpreter, "install it, or name the one that is there in the script's first line");
    }
    if Path::new(interpreter).file_name().is_some_and(|name| name == "env") {
        let program = words.find(|word| !word.starts_with('-') && !word.contains('='))?;
        if let Err(Missing::NotInPath | Missing::NoFile(_)) = program::find(program, path) {
            return missing(
                &format!("{program} (by way of env)"),
                &format!("install it, or extend PATH, which is {path}"),
            );
        }
    }
    None
}

impl Elf {
    fn read(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut ident = [0; 64];
        file.read_exact_at(&mut ident, 0)?;
        let [_, _, _, _, class, data, ..] = ident;
        let (wide, little) = (class == 2, data == 1);
        let number = |bytes: &[u8]| {
            let fold = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
            if little { bytes.iter().rev().fold(0, fold) } else { bytes.iter().fold(0, fold) }
        };
        let field = |bytes: &[u8], at: usize, length: usize| bytes.get(at..at + length).map_or(0, number);
        let machine = field(&ident, 18, 2) as u16;
        let (headers, size, count) = if wide {
            (field(&ident, 32, 8), field(&ident, 54, 2), field(&ident, 56, 2))
        } else {
            (field(&ident, 28, 4), field(&ident, 42, 2), field(&ident, 44, 2))
        };
        let mut elf = Self { machine, little_endian: little, interpreter: None };
        let needed = if wide { 56 } else { 32 };
        if size < needed {
            return Err(io::ErrorKind::InvalidData.into());
        }
        for index in 0..count.min(MAX_HEADERS.into()) {
            let mut header = [0; 56];
            let header = header.get_mut(..needed as usize).unwrap_or_default();
            file.read_exact_at(header, headers.saturating_add(index * size))?;
            if field(header, 0, 4) != u64::from(PT_INTERP) {
                continue;
            }
            let (offset, length) = if wide {
                (field(header, 8, 8), field(header, 32, 8))
            } else {
                (field(header, 4, 4), field(header, 16, 4))
            };
            let mut name = vec![0; usize::try_from(length.min(MAX_NAME)).unwrap_or(0)];
            file.read_exact_at(&mut name, offset)?;
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            elf.interpreter = Some(PathBuf::from(String::from_utf8_lossy(name).into_owned()));
        }
        Ok(elf)
    }

    fn fault(&self, file: &Path) -> Option<Fault> {
        let shown = file.display();
        let here = std::env::consts::ARCH;
        if machine_name(self.machine) != here || self.little_endian != cfg!(target_endian = "little") {
            return Some(Fault {
                code: "wrong_architecture",
                message: format!("{shown} is built for {}, this machine is {here}", machine_name(self.machine)),
                cure: format!("build it for {here} (Go: GOARCH={})", go_architecture(here)),
            });
        }
        let interpreter = self.interpreter.as_ref().filter(|path| !path.exists())?;
        let (library, cure) = if interpreter.to_string_lossy().contains("musl") {
            ("musl (Alpine)", "build it in an image with glibc, as this one, or without cgo (CGO_ENABLED=0)")
        } else {
            ("glibc", "build it in an image like this one (Alpine has musl), or without cgo (CGO_ENABLED=0)")
        };
        Some(Fault {
            code: "wrong_libc",
            message: format!(
                "{shown} is linked with {library}, whose loader {} is not there: running it says \"not found\"",
                interpreter.display()
            ),
            cure: cure.to_owned(),
        })
    }
}

fn machine_name(machine: u16) -> &'static str {
    match machine {
        3 => "x86",
        20 => "powerpc",
        21 => "powerpc64",
        22 => "s390x",
        40 => "arm",
        62 => "x86_64",
        183 => "aarch64",
        243 => "riscv64",
        258 => "loongarch64",
        _ => "another processor",
    }
}

fn go_architecture(architecture: &str) -> &str {
    match architecture {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The smallest file that is an executable as far as is looked at here.
    pub(crate) fn elf(machine: u16, interpreter: Option<&str>) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = u8::from(interpreter.is_some());
        if let Some(name) = interpreter {
            bytes[64] = 3;
            bytes[64 + 8] = 64 + 56;
            bytes[64 + 32] = name.len() as u8 + 1;
            bytes.extend_from_slice(name.as_bytes());
            bytes.push(0);
        }
        bytes
    }

    /// This machine's number.
    pub(crate) fn here() -> u16 {
        (0..300).find(|machine| machine_name(*machine) == std::env::consts::ARCH).unwrap()
    }

    #[test]
    fn the_loader_is_read_from_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("program");
        let elsewhere = if here() == 62 { 183 } else { 62 };
        for (bytes, expect) in [
            (elf(here(), None), None),
            (elf(here(), Some("/")), None),
            (elf(here(), Some("/lib/ld-musl-none.so.1")), Some("wrong_libc")),
            (elf(here(), Some("/lib64/ld-linux-none.so.2")), Some("wrong_libc")),
            (elf(elsewhere, None), Some("wrong_architecture")),
            (b"\x7fELF\x02\x01".to_vec(), Some("damaged_executable")),
            (b"#!/bin/sh\n".to_vec(), None),
            (b"#!/usr/bin/env -S sh -e\n".to_vec(), None),
            (b"#!/no/python\n".to_vec(), Some("interpreter_missing")),
            (b"#!/usr/bin/env no-such-python\n".to_vec(), Some("interpreter_missing")),
            (b"#!/bin/sh\r\n".to_vec(), Some("interpreter_missing")),
            (b"MZ".to_vec(), Some("not_a_program")),
            (b"".to_vec(), Some("not_a_program")),
        ] {
            std::fs::write(&file, &bytes).unwrap();
            let found = fault(&file, "/usr/bin:/bin");
            assert_eq!(found.as_ref().map(|fault| fault.code), expect, "{found:?}");
        }
        std::fs::write(&file, elf(here(), None)).unwrap();
        assert!(is_static(&file));
        std::fs::write(&file, elf(here(), Some("/x"))).unwrap();
        assert!(!is_static(&file));
    }

    #[test]
    fn an_executable_of_this_machine_has_no_fault() {
        assert_eq!(fault(&std::env::current_exe().unwrap(), ""), None);
    }
}
