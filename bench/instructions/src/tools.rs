//! The tools that have a say in the count: what was recorded with others may differ for no other reason.

use std::process::Command;

/// One line each: the compilers (that of C makes the allocator), libc, valgrind, and what it shows of the processor
/// (libc and memchr choose their code by it).
pub(crate) fn versions() -> Vec<String> {
    let first_line = |command: &str, argument: &str| {
        let output = Command::new(command).arg(argument).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        format!("{command}: {}", text.lines().next().unwrap_or("unknown"))
    };
    vec![
        first_line("rustc", "--version"),
        first_line("cc", "--version"),
        first_line("getconf", "GNU_LIBC_VERSION"),
        first_line("valgrind", "--version"),
        format!("AVX2: {}", if has_avx2() { "yes" } else { "no" }),
    ]
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    std::is_x86_feature_detected!("avx2")
}

#[cfg(not(target_arch = "x86_64"))]
const fn has_avx2() -> bool {
    false
}
