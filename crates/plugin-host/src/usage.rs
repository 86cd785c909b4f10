//! What a process uses, as the kernel counts it.

use std::{fs, time::Duration};

use nix::unistd::{SysconfVar, sysconf};

/// Processes of a tree that are looked at.
const MAX_TREE: usize = 64;

/// Memory and time of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Resident bytes.
    pub memory: u64,
    /// Processor time, of the kernel for it too.
    pub cpu: Duration,
}

impl Usage {
    /// Of a process; `None` if there is none.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let page = u64::try_from(sysconf(SysconfVar::PAGE_SIZE).ok()??).ok()?;
        let ticks = u64::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok()?;
        Self::parse(&stat, page, ticks)
    }

    /// Of a process and what it started, as far as that is still its own.
    pub fn of_tree(pid: u32) -> Option<Self> {
        let mut total = Self::of(pid)?;
        let mut waiting = children(pid);
        let mut seen = 0;
        while let Some(pid) = waiting.pop() {
            seen += 1;
            if seen > MAX_TREE {
                break;
            }
            if let Some(usage) = Self::of(pid) {
                total.memory = total.memory.saturating_add(usage.memory);
                total.cpu = total.cpu.saturating_add(usage.cpu);
            }
            waiting.extend(children(pid));
        }
        Some(total)
    }

    /// Reads `/proc/PID/stat`. The name in parentheses may itself hold any character.
    fn parse(stat: &str, page: u64, ticks: u64) -> Option<Self> {
        let (_, rest) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        // proc(5) counts from 1, and the pid and the name are gone: utime is 14, stime 15, rss 24
        let cpu = number(11)?.saturating_add(number(12)?).saturating_mul(1000).checked_div(ticks)?;
        Some(Self { memory: number(21)?.saturating_mul(page), cpu: Duration::from_millis(cpu) })
    }
}

/// The children of a process.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let mut children = Vec::new();
    // each thread has those that it started
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let text = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        children.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    children
}

/// Bytes of memory that there are for this process: the machine's, or its cgroup's if that has fewer.
pub(crate) fn memory_of_machine() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let total = line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()?.saturating_mul(1024);
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limit = limits.iter().find_map(|path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok());
    Some(limit.map_or(total, |limit| limit.min(total)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line_is_read() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 3 0 99 1000 25 18446744073709551615";
        assert_eq!(Usage::parse(stat, 4096, 100), Some(Usage { memory: 25 * 4096, cpu: Duration::from_secs(2) }));
        assert_eq!(Usage::parse("7 (a) S 1", 4096, 100), None);
        assert!(Usage::of(std::process::id()).is_some_and(|usage| usage.memory > 0));
    }
}
