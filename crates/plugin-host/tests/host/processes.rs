//! Several processes of one server, renewals, and servers that take the place of others.

use std::{fs, path::Path, sync::Arc, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use silverback_config::settings::PluginServer;
use silverback_plugin_host::{ChangeError, EventEnd, Offer, ServerState, WireProtocol};

use crate::support::{LONG, SHORT, Script, Stage, block_on};

const BOTH: [WireProtocol; 2] = [WireProtocol::MsgPack, WireProtocol::ProtoBuf];

fn ready(stage: &Stage) -> usize {
    stage.status().processes.iter().filter(|process| process.state == ServerState::Ready).count()
}

#[test]
fn events_go_to_the_process_that_is_least_busy() {
    for protocol in BOTH {
        block_on(async {
            let stage = Stage::with_settings(protocol, LONG, "", |server| server.process.workers = 2);
            stage.wait(|| ready(&stage) == 2, "two processes").await;
            let instance = stage.script(json!([["sleep", 100]]));
            let (first, second) = tokio::join!(async { stage.run(&instance, &mut Script::default()).await }, async {
                stage.run(&instance, &mut Script::default()).await
            });
            assert_eq!((first.unwrap(), second.unwrap()), (EventEnd::Returned, EventEnd::Returned));
            let events: Vec<u64> = stage.status().processes.iter().map(|process| process.events).collect();
            assert_eq!(events, [1, 1]);
            // an instance is started in each
            assert_eq!(stage.noted("start"), 2);
            stage.host.stop().await;
        });
    }
}

#[test]
fn a_dead_or_hung_process_stops_no_peer() {
    for (protocol, signal) in
        BOTH.into_iter().flat_map(|protocol| [(protocol, Signal::SIGKILL), (protocol, Signal::SIGSTOP)])
    {
        block_on(async {
            let stage = Stage::with_settings(protocol, SHORT, "", |server| server.process.workers = 2);
            stage.wait(|| ready(&stage) == 2, "two processes").await;
            let instance = stage.script(json!([]));
            let victim = stage.status().processes[0].pid.unwrap();
            kill(Pid::from_raw(victim.cast_signed()), signal).unwrap();
            let mut served = 0;
            stage
                .wait_for(
                    async || {
                        served += usize::from(stage.run(&instance, &mut Script::default()).await.is_ok());
                        let status = stage.status();
                        status.restarts == 1
                            && ready(&stage) == 2
                            && status.processes.iter().all(|process| process.pid != Some(victim))
                    },
                    "another process",
                )
                .await;
            assert!(served > 0, "{protocol:?} {signal}");
            stage.host.stop().await;
        });
    }
}

#[test]
fn a_process_that_has_done_its_share_lets_its_events_end() {
    for protocol in BOTH {
        block_on(async {
            let stage = Stage::with_settings(protocol, LONG, "", |server| server.process.max_requests = 2);
            let quick = stage.script(json!([]));
            let go_ahead = stage.socket().with_file_name("go-ahead");
            let slow = stage.script(json!([["wait for", go_ahead]]));
            stage.wait_state(ServerState::Ready).await;
            let first = stage.pid();
            let mut script = Script::default();
            let under_way = stage.run(&slow, &mut script);
            let others = async {
                // the second event of the process makes it due
                assert_eq!(stage.run(&quick, &mut Script::default()).await.unwrap(), EventEnd::Returned);
                stage.wait(|| stage.pid() != first, "another process").await;
                let draining = stage
                    .status()
                    .processes
                    .iter()
                    .any(|process| process.state == ServerState::Draining && process.in_flight == 1);
                assert!(draining, "{:?}", stage.status());
                fs::write(&go_ahead, "").unwrap();
            };
            let (end, ()) = tokio::join!(under_way, others);
            assert_eq!(end.unwrap(), EventEnd::Returned);
            stage.wait(|| stage.status().processes.len() == 1, "the end of the first").await;
            assert_eq!(stage.status().restarts, 0);
            stage.host.stop().await;
        });
    }
}

/// The stage's server as it is configured, and what it offers.
fn offer(protocol: WireProtocol) -> Offer {
    Offer { server: "stand-in".to_owned(), protocol, socket: None, plugins: Vec::new(), complaints: Vec::new() }
}

#[test]
fn a_server_takes_the_place_of_another_when_it_is_ready() {
    for protocol in BOTH {
        block_on(async {
            let stage = Stage::new(protocol, LONG);
            let old = stage.script(json!([]));
            assert_eq!(stage.run(&old, &mut Script::default()).await.unwrap(), EventEnd::Returned);
            let first = stage.pid();
            let settings = [stage.settings()];
            let change = stage.host.change(&settings, &[], &[offer(protocol)], |_| false).await.unwrap();
            assert_eq!(change.new_servers().collect::<Vec<_>>(), ["stand-in"]);
            // nothing has changed yet
            assert_eq!(stage.pid(), first);
            let config = json!({ "script": [] }).as_object().cloned().unwrap();
            let new = change.fleet().instance("stand-in", "actor", config).unwrap();
            assert!(!Arc::ptr_eq(&old, &new));
            change.warm().await.unwrap();
            assert_eq!(stage.noted("start"), 2);
            change.make();
            assert_ne!(stage.pid(), first);
            // who holds the old one still has its process
            assert_eq!(stage.run(&old, &mut Script::default()).await.unwrap(), EventEnd::Returned);
            assert_eq!(stage.run(&new, &mut Script::default()).await.unwrap(), EventEnd::Returned);
            drop(old);
            stage.wait(|| !Path::new(&format!("/proc/{first}")).exists(), "the end of the first").await;
            assert_eq!(stage.run(&new, &mut Script::default()).await.unwrap(), EventEnd::Returned);
            stage.host.stop().await;
        });
    }
}

#[test]
fn a_server_that_does_not_come_up_changes_nothing() {
    block_on(async {
        let stage = Stage::new(WireProtocol::MsgPack, LONG);
        let instance = stage.script(json!([]));
        assert_eq!(stage.run(&instance, &mut Script::default()).await.unwrap(), EventEnd::Returned);
        let first = stage.pid();
        let mut settings = stage.settings();
        for (command, time, expect) in
            [("sh -c 'exit 5'", 60_000, "exit status 5"), ("sleep 100", 300, "nothing has answered")]
        {
            settings.start_cmd = Some(command.to_owned());
            settings.process.start_timeout = Duration::from_millis(time);
            let offers = [offer(WireProtocol::MsgPack)];
            let errors = stage.host.change(&[settings.clone()], &[], &offers, |_| false).await.err().unwrap();
            let [ChangeError::NotUp { reason, .. }] = errors.as_slice() else { panic!("{errors:?}") };
            assert!(reason.contains(expect), "{reason}");
            assert_eq!(stage.pid(), first);
            assert_eq!(stage.run(&instance, &mut Script::default()).await.unwrap(), EventEnd::Returned);
        }
        stage.host.stop().await;
    });
}

#[test]
fn a_server_that_ends_before_it_takes_over_changes_nothing() {
    for (protocol, workers) in [(WireProtocol::MsgPack, 1), (WireProtocol::ProtoBuf, 2)] {
        block_on(async {
            let stage = Stage::with_settings(protocol, LONG, "", |server| server.process.workers = workers);
            stage.wait(|| ready(&stage) == workers, "the first processes").await;
            let instance = stage.script(json!([]));
            assert_eq!(stage.run(&instance, &mut Script::default()).await.unwrap(), EventEnd::Returned);
            let change = stage.host.change(&[stage.settings()], &[], &[offer(protocol)], |_| false).await.unwrap();
            change.check().unwrap();
            stage.wait_noted("pid ", workers + 1).await;
            kill(Pid::from_raw(stage.noted_pids()[workers]), Signal::SIGKILL).unwrap();
            stage.wait(|| change.check().is_err(), "the end of the new process").await;
            let errors = change.warm().await.unwrap_err();
            let [ChangeError::NotUp { reason, .. }] = errors.as_slice() else { panic!("{errors:?}") };
            assert!(reason.contains("killed by SIGKILL"), "{reason}");
            drop(change);
            assert_eq!(stage.run(&instance, &mut Script::default()).await.unwrap(), EventEnd::Returned);
            stage.host.stop().await;
        });
    }
}

#[test]
fn a_server_that_ends_as_it_takes_over_is_started_again() {
    block_on(async {
        let protocol = WireProtocol::MsgPack;
        let stage = Stage::new(protocol, LONG);
        stage.wait_state(ServerState::Ready).await;
        let change = stage.host.change(&[stage.settings()], &[], &[offer(protocol)], |_| false).await.unwrap();
        let config = json!({ "script": [] }).as_object().cloned().unwrap();
        let new = change.fleet().instance("stand-in", "actor", config).unwrap();
        change.warm().await.unwrap();
        // nobody has noticed when the change is made
        stage.wait_noted("pid ", 2).await;
        kill(Pid::from_raw(stage.noted_pids()[1]), Signal::SIGKILL).unwrap();
        change.make();
        stage.wait(|| stage.status().restarts == 1, "a restart").await;
        assert_eq!(stage.run(&new, &mut Script::default()).await.unwrap(), EventEnd::Returned);
        stage.host.stop().await;
    });
}

/// Lets the process of a server hang before it listens, as long as a file `hang` is there, and say so in the journal.
fn hangs_at_its_start(server: &mut PluginServer) {
    let beside = |name: &str| server.socket.with_file_name(name).display().to_string();
    let line = server.start_cmd.as_deref().unwrap_or("false");
    let hang = format!("if [ -e {} ]; then echo hung >> {}; exec sleep 100; fi", beside("hang"), beside("journal"));
    server.start_cmd = Some(format!("sh -c '{hang}; exec {line}'"));
}

#[test]
fn a_server_on_trial_that_hangs_delays_no_process_that_is_needed() {
    block_on(async {
        let protocol = WireProtocol::MsgPack;
        let stage = Stage::new(protocol, LONG);
        let instance = stage.script(json!([]));
        assert_eq!(stage.run(&instance, &mut Script::default()).await.unwrap(), EventEnd::Returned);
        let mut settings = [stage.settings()];
        hangs_at_its_start(&mut settings[0]);
        fs::write(stage.socket().with_file_name("hang"), "").unwrap();
        let offers = [offer(protocol)];
        let change = stage.host.change(&settings, &[], &offers, |_| false);
        let old_one_ends = async {
            for turn in 1..3 {
                // it is tried again when the other one has come up
                stage.wait_noted("hung", turn).await;
                kill(Pid::from_raw(stage.pid()), Signal::SIGKILL).unwrap();
                stage.wait_noted("pid", turn + 1).await;
                assert_eq!(stage.run(&instance, &mut Script::default()).await.unwrap(), EventEnd::Returned);
            }
            stage.wait_noted("hung", 3).await;
            fs::remove_file(stage.socket().with_file_name("hang")).unwrap();
            kill(Pid::from_raw(stage.pid()), Signal::SIGKILL).unwrap();
            stage.wait_noted("pid", 4).await;
        };
        let (change, ()) = tokio::join!(change, old_one_ends);
        let errors = change.err().unwrap();
        let [ChangeError::NotUp { reason, .. }] = errors.as_slice() else { panic!("{errors:?}") };
        assert!(reason.contains("another process of that socket was needed"), "{reason}");
        assert_eq!(stage.run(&instance, &mut Script::default()).await.unwrap(), EventEnd::Returned);
        stage.host.stop().await;
    });
}

#[test]
fn a_renewal_that_hangs_delays_no_process_that_is_needed() {
    for workers in [1, 2] {
        block_on(async {
            let stage = Stage::with_settings(WireProtocol::MsgPack, LONG, "", |server| {
                server.process.workers = workers;
                server.process.max_requests = 3;
                hangs_at_its_start(server);
            });
            stage.wait(|| ready(&stage) == workers, "the first processes").await;
            fs::write(stage.socket().with_file_name("hang"), "").unwrap();
            let instance = stage.script(json!([]));
            stage
                .wait_for(
                    async || {
                        assert_eq!(stage.run(&instance, &mut Script::default()).await.unwrap(), EventEnd::Returned);
                        stage.noted("hung") > 0
                    },
                    "a renewal",
                )
                .await;
            fs::remove_file(stage.socket().with_file_name("hang")).unwrap();
            for pid in stage.noted_pids() {
                kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
            }
            stage.wait_noted("pid", 2 * workers).await;
            stage.wait(|| ready(&stage) == workers, "the next processes").await;
            assert_eq!(stage.run(&instance, &mut Script::default()).await.unwrap(), EventEnd::Returned);
            stage.host.stop().await;
        });
    }
}

#[test]
fn a_process_with_many_instances_that_nobody_asks_for_is_replaced() {
    for protocol in BOTH {
        block_on(async {
            let stage = Stage::new(protocol, LONG);
            let kept = stage.script(json!([]));
            assert_eq!(stage.run(&kept, &mut Script::default()).await.unwrap(), EventEnd::Returned);
            for number in 0..1000 {
                // as after a change of the configuration, nobody holds the one before
                let instance = stage.instance(json!({ "script": [], "name": number.to_string() }));
                assert_eq!(stage.run(&instance, &mut Script::default()).await.unwrap(), EventEnd::Returned);
            }
            stage.wait_noted("pid", 2).await;
            stage.wait(|| stage.status().processes.len() == 1, "the end of the first").await;
            assert_eq!(stage.run(&kept, &mut Script::default()).await.unwrap(), EventEnd::Returned);
            let status = stage.status();
            assert_eq!((status.restarts, status.processes[0].instances), (0, 1));
            stage.host.stop().await;
        });
    }
}

#[test]
fn a_server_that_refuses_what_the_old_one_takes_changes_nothing() {
    block_on(async {
        let stage = Stage::new(WireProtocol::MsgPack, LONG);
        let config = json!({ "script": [] });
        let instance = stage.instance(config.clone());
        assert_eq!(stage.run(&instance, &mut Script::default()).await.unwrap(), EventEnd::Returned);
        let mut settings = stage.settings();
        // one that listens, and answers nobody
        settings.start_cmd = Some(format!(
            "{} -c \"import socket,time; s=socket.socket(socket.AF_UNIX); s.bind('{}'); s.listen(9)\nwhile True: c=s.accept()[0]; c.close()\"",
            "python3",
            stage.socket().display()
        ));
        let change = stage.host.change(&[settings], &[], &[offer(WireProtocol::MsgPack)], |_| false).await.unwrap();
        let _new = change.fleet().instance("stand-in", "actor", config.as_object().cloned().unwrap()).unwrap();
        let errors = change.warm().await.unwrap_err();
        assert!(matches!(errors.as_slice(), [ChangeError::Refused { .. }]), "{errors:?}");
        drop(change);
        assert_eq!(stage.run(&instance, &mut Script::default()).await.unwrap(), EventEnd::Returned);
        stage.host.stop().await;
    });
}
