//! Orphans. The gateway is a child subreaper: what a plugin server leaves behind becomes its child, and must be reaped.
//!
//! The runtime reaps the processes it started itself, as soon as they end. So a zombie that is still there a while later
//! is an orphan. (Reaping any child at once would take exit statuses away from the supervisors.)

use std::{collections::HashMap, fs, io, time::Duration};

use nix::{
    sys::{
        prctl,
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};
use tokio::time::{Instant, interval};

const EVERY: Duration = Duration::from_secs(5);
const GRACE: Duration = Duration::from_secs(4);

/// Makes this process the parent of every orphan among its descendants.
///
/// # Errors
/// The kernel does not know child subreapers.
pub(crate) fn become_subreaper() -> io::Result<()> {
    Ok(prctl::set_child_subreaper(true)?)
}

/// Reaps orphans until it is aborted.
pub(crate) async fn reap_orphans() {
    let mut seen: HashMap<i32, Instant> = HashMap::new();
    let mut ticks = interval(EVERY);
    loop {
        ticks.tick().await;
        let zombies = zombie_children();
        seen.retain(|pid, _| zombies.contains(pid));
        for pid in zombies {
            if seen.entry(pid).or_insert_with(Instant::now).elapsed() > GRACE {
                let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
            }
        }
    }
}

fn zombie_children() -> Vec<i32> {
    let mut zombies = Vec::new();
    for task in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for pid in children.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok()) {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // The name in parentheses may itself hold any character.
            if stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')) {
                zombies.push(pid);
            }
        }
    }
    zombies
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_child_that_ended_is_seen_until_it_is_reaped() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while !zombie_children().contains(&pid) {
            assert!(std::time::Instant::now() < deadline, "the child did not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        child.wait().unwrap();
        assert!(!zombie_children().contains(&pid));
    }
}
