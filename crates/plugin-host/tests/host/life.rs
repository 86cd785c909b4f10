//! The life of servers.

use std::{
    os::unix::net::{UnixListener, UnixStream},
    sync::Arc,
    time::Duration,
};

use nix::{
    sys::{
        signal::{Signal, kill},
        socket::{Backlog, listen},
    },
    unistd::Pid,
};
use serde_json::json;
use silverback_model::Phase;
use silverback_plugin_host::{Connections, Deadlines, EventEnd, FailureKind, ServerState, WireProtocol};
use tempfile::TempDir;

use crate::support::{LONG, Managed, SHORT, Script, Stage, block_on, with_both};

#[test]
fn a_request_waits_for_a_server_that_starts_slowly() {
    block_on(async {
        let stage = Stage::with(WireProtocol::MsgPack, LONG, Managed::ByHost, "STAND_IN_DELAY=300");
        assert_eq!(stage.status().state, ServerState::Starting);
        let instance = stage.script(json!([]));
        assert_eq!(stage.run(&instance, &mut Script::default()).await.unwrap(), EventEnd::Returned);
        assert_eq!(stage.status().state, ServerState::Ready);
    });
}

#[test]
fn a_server_that_is_never_ready_fails_the_request() {
    block_on(async {
        let deadlines = Deadlines { ready: Duration::from_millis(100), ..LONG };
        let folder = TempDir::new().unwrap();
        let stage = Stage::with_command(WireProtocol::MsgPack, deadlines, folder, Some("sleep 100".to_owned()));
        let failure = stage.run(&stage.script(json!([])), &mut Script::default()).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Unavailable);
        assert!(failure.message.contains("not ready within"), "{failure}");
        stage.host.stop().await;
    });
}

#[test]
fn a_command_that_fails_is_tried_again_and_its_last_lines_are_kept() {
    block_on(async {
        let deadlines = Deadlines { ready: Duration::from_millis(500), ..LONG };
        let folder = TempDir::new().unwrap();
        let command = "sh -c 'echo no such module; exit 5'".to_owned();
        let stage = Stage::with_command(WireProtocol::MsgPack, deadlines, folder, Some(command));
        stage.wait(|| stage.status().restarts >= 2, "two restarts").await;
        let failure = stage.run(&stage.script(json!([])), &mut Script::default()).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Unavailable);
        stage.wait_state(ServerState::Backoff).await;
        let failure = stage.run(&stage.script(json!([])), &mut Script::default()).await.unwrap_err();
        assert_eq!(failure.lines, ["no such module"]);
        stage.host.stop().await;
        assert_eq!(stage.status().state, ServerState::Dead);
    });
}

#[test]
fn a_server_that_crashes_at_its_start_is_not_waited_for_until_it_comes_up() {
    block_on(async {
        let folder = TempDir::new().unwrap();
        let good = folder.path().join("good");
        let stage = Stage::with_settings(WireProtocol::MsgPack, LONG, "", |server| {
            let line = server.start_cmd.take().unwrap_or_default();
            let check = format!("[ -e {} ] || {{ echo no such module; exit 5; }}", good.display());
            server.start_cmd = Some(format!("sh -c '{check}; exec {line}'"));
        });
        let failure = async || stage.run(&stage.script(json!([])), &mut Script::default()).await.unwrap_err();
        // one that waits from the beginning, and those that come later
        for _ in 0..2 {
            let failure = failure().await;
            assert_eq!(failure.kind, FailureKind::Unavailable);
            assert!(failure.message.contains("does not come up, again and again"), "{failure}");
            assert!(failure.message.contains("exit status 5"), "{failure}");
        }
        stage.wait_for(async || failure().await.lines == ["no such module"], "its last words").await;
        std::fs::write(&good, "").unwrap();
        stage.wait_state(ServerState::Ready).await;
        assert_eq!(stage.run(&stage.script(json!([])), &mut Script::default()).await.unwrap(), EventEnd::Returned);
        stage.host.stop().await;
    });
}

#[test]
fn a_server_killed_between_events_is_not_noticed_by_requests() {
    with_both(LONG, async |stage, _| {
        let instance = stage.script(json!([["call", "kong.request.get_host"]]));
        for restarts in 0..3 {
            assert_eq!(stage.run(&instance, &mut Script::default()).await.unwrap(), EventEnd::Returned);
            assert_eq!(stage.status().restarts, restarts);
            kill(Pid::from_raw(stage.pid()), Signal::SIGKILL).unwrap();
            stage.wait(|| stage.status().restarts == restarts + 1, "a restart").await;
        }
        assert_eq!((stage.noted("start"), stage.noted("event")), (3, 3));
    });
}

#[test]
fn the_socket_of_a_former_run_is_removed() {
    block_on(async {
        let folder = TempDir::new().unwrap();
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        let stage = Stage::with_command(WireProtocol::MsgPack, LONG, folder, Some("sleep 100".to_owned()));
        stage.wait(|| stage.status().pid.is_some(), "a process").await;
        // the old listener answers no more: the server counts as ready only when its own socket answers
        assert_eq!(stage.status().state, ServerState::Starting);
        drop(listener);
        stage.host.stop().await;
    });
}

#[test]
fn an_old_listener_with_a_full_queue_blocks_nothing() {
    block_on(async {
        let folder = TempDir::new().unwrap();
        let socket = folder.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        let queued = UnixStream::connect(&socket).unwrap();
        let stage = Stage::with_command(WireProtocol::MsgPack, LONG, folder, Some("sleep 100".to_owned()));
        stage.wait(|| stage.status().pid.is_some(), "a process").await;
        drop((listener, queued));
        stage.host.stop().await;
    });
}

#[test]
fn a_server_whose_socket_is_lost_is_started_again() {
    with_both(Deadlines { ready: Duration::from_secs(5), ..LONG }, async |stage, _| {
        let instance = stage.script(json!([]));
        assert_eq!(stage.run(&instance, &mut Script::default()).await.unwrap(), EventEnd::Returned);
        let own = std::fs::read_link(stage.socket()).unwrap();
        std::fs::remove_file(stage.socket().with_file_name(own)).unwrap();
        // connections that are open go on; one that is to be opened finds nothing
        let worker = Connections::new(Arc::clone(&stage.host));
        let _ = worker.handle_event(&instance, Phase::Access, None, &mut Script::default()).await;
        stage.wait(|| stage.status().restarts == 1, "a restart").await;
        stage.wait_state(ServerState::Ready).await;
        assert_eq!(stage.run(&instance, &mut Script::default()).await.unwrap(), EventEnd::Returned);
    });
}

#[test]
fn stop_ends_the_processes() {
    with_both(LONG, async |stage, _| {
        let instance = stage.script(json!([]));
        assert_eq!(stage.run(&instance, &mut Script::default()).await.unwrap(), EventEnd::Returned);
        let pid = Pid::from_raw(stage.pid());
        stage.host.stop().await;
        assert_eq!(stage.status().state, ServerState::Dead);
        assert!(kill(pid, None).is_err(), "the process is gone");
        let failure = stage.run(&instance, &mut Script::default()).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Unavailable);
    });
}

#[test]
fn a_process_that_ignores_the_request_to_end_is_killed() {
    block_on(async {
        let command = "sh -c 'trap \"\" TERM; echo up; while :; do sleep 0.1; done'".to_owned();
        let stage = Stage::with_settings(WireProtocol::MsgPack, LONG, "", |server| {
            server.start_cmd = Some(command);
            server.process.shutdown_grace = Duration::from_millis(200);
        });
        let process = || stage.status().pid.and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
        stage.wait(|| process().is_some(), "a process").await;
        let pid = process().unwrap();
        stage.host.stop().await;
        assert!(kill(pid, None).is_err(), "the process is gone");
    });
}

#[test]
fn a_server_managed_elsewhere_is_waited_for_and_its_restart_is_noticed() {
    for protocol in [WireProtocol::MsgPack, WireProtocol::ProtoBuf] {
        block_on(async {
            let mut stage = Stage::with(protocol, LONG, Managed::Elsewhere, "");
            // MessagePack numbers instances from 0 in each process: a stale number would run the other one
            let first = stage.instance(json!({ "name": "first", "script": [] }));
            let second = stage.instance(json!({ "name": "second", "script": [] }));
            stage.start_elsewhere();
            assert_eq!(stage.run(&first, &mut Script::default()).await.unwrap(), EventEnd::Returned);
            assert_eq!(stage.run(&second, &mut Script::default()).await.unwrap(), EventEnd::Returned);
            stage.start_elsewhere();
            stage.wait_noted("pid", 2).await;
            assert_eq!(stage.run(&second, &mut Script::default()).await.unwrap(), EventEnd::Returned);
            assert_eq!(stage.run(&first, &mut Script::default()).await.unwrap(), EventEnd::Returned);
            let events: Vec<_> = stage.journal().into_iter().filter(|line| line.starts_with("event")).collect();
            assert_eq!(
                events,
                ["event access first", "event access second", "event access second", "event access first"]
            );
            assert_eq!(stage.noted("start"), 4);
        });
    }
}

#[test]
fn a_restart_behind_a_bridge_is_noticed() {
    for protocol in [WireProtocol::MsgPack, WireProtocol::ProtoBuf] {
        block_on(async {
            let mut stage = Stage::with(protocol, LONG, Managed::Elsewhere, "");
            // the socket that the host sees stays the same, and so does the process that holds it
            stage.bridge();
            let first = stage.instance(json!({ "name": "first", "script": [] }));
            let second = stage.instance(json!({ "name": "second", "script": [] }));
            stage.start_elsewhere();
            stage.wait_noted("pid", 1).await;
            for instance in [&first, &second] {
                assert_eq!(stage.run(instance, &mut Script::default()).await.unwrap(), EventEnd::Returned);
            }
            stage.start_elsewhere();
            stage.wait_noted("pid", 2).await;
            let ran = async |instance| stage.run(instance, &mut Script::default()).await.is_ok();
            // what was sent into the bridge may be lost; what runs must be the right instance
            stage.wait_for(async || ran(&second).await, "second").await;
            stage.wait_for(async || ran(&first).await, "first").await;
            let events: Vec<_> = stage.journal().into_iter().filter(|line| line.starts_with("event")).collect();
            assert_eq!(
                events,
                ["event access first", "event access second", "event access second", "event access first"]
            );
        });
    }
}

#[test]
fn a_handler_of_a_server_managed_elsewhere_is_waited_for_over_epochs() {
    block_on(async {
        let mut stage = Stage::with(WireProtocol::MsgPack, SHORT, Managed::Elsewhere, "");
        stage.start_elsewhere();
        let call = json!(["call", "kong.request.get_host"]);
        let late = stage.script(json!([["sleep", 4500], call, call]));
        let failure = stage.run(&late, &mut Script::default()).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Deadline);
        // the epoch ends
        let closing = stage.script(json!([["close"]]));
        let failure = stage.run(&closing, &mut Script::default()).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Closed);
        assert_eq!(stage.run(&stage.script(json!([])), &mut Script::default()).await.unwrap(), EventEnd::Returned);
        stage.wait_noted("plugin.StepError", 2).await;
    });
}

#[test]
fn workers_share_instances() {
    block_on(async {
        let stage = Stage::new(WireProtocol::ProtoBuf, LONG);
        let instance = stage.script(json!([["call", "kong.request.get_host"]]));
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let (host, instance) = (Arc::clone(&stage.host), Arc::clone(&instance));
                std::thread::spawn(move || {
                    block_on(async {
                        let connections = Connections::new(host);
                        for _ in 0..10 {
                            let phase = Phase::Log;
                            let end = connections.handle_event(&instance, phase, None, &mut Script::default()).await;
                            assert_eq!(end.unwrap(), EventEnd::Returned);
                        }
                    });
                })
            })
            .collect();
        stage.wait(|| workers.iter().all(std::thread::JoinHandle::is_finished), "the workers").await;
        for worker in workers {
            worker.join().unwrap();
        }
        assert_eq!((stage.noted("start"), stage.noted("event log")), (1, 30));
        stage.host.stop().await;
    });
}
