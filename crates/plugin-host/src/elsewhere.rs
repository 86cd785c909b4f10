//! Watches a server that is managed elsewhere. What stands for its process is its socket: who answers there, and the
//! file.

use std::{fs, sync::Arc, time::Duration};

use silverback_log::Level;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::{
    ServerState,
    connection::connect_to,
    life::{Identity, Life},
    server::{Server, Stop},
};

/// Pauses between looks at a socket that does not answer.
const FIRST_LOOK: Duration = Duration::from_millis(2);
const LAST_LOOK: Duration = Duration::from_millis(100);

/// How often the socket file is looked at.
const WATCH: Duration = Duration::from_secs(1);

/// How long events may take to end when another server takes the place of this one.
const DRAIN: Duration = Duration::from_secs(120);

pub(crate) fn spawn(server: &Arc<Server>) -> JoinHandle<()> {
    let server = Arc::clone(server);
    tokio::spawn(async move {
        let mut stop = server.stops();
        let mut draining = stop.clone();
        let how = tokio::select! {
            () = watch(&server) => None,
            how = stop.wait_for(Option::is_some) => how.ok().and_then(|how| *how),
        };
        if let Some(Stop::Drained(limit)) = how {
            let _ = timeout(limit, unused(&server)).await;
            for life in server.lives().iter() {
                life.set_draining();
                server.changed();
                tokio::select! {
                    () = life.idle() => {}
                    () = sleep(DRAIN) => {}
                    () = stopping_now(&mut draining) => {}
                }
            }
        }
        for life in server.lives().iter() {
            server.dismiss(life);
        }
        server.set_seat(0, ServerState::Dead, None);
    })
}

/// Waits until nobody can ask for an instance.
async fn unused(server: &Server) {
    while server.has_instances() {
        sleep(LAST_LOOK).await;
    }
}

async fn stopping_now(stop: &mut watch::Receiver<Option<Stop>>) {
    let _ = stop.wait_for(|stop| matches!(stop, Some(Stop::Now(_)))).await; // an error is the end, too
}

/// Declares one life after the other.
async fn watch(server: &Arc<Server>) {
    server.set_seat(0, ServerState::Starting, None);
    loop {
        let identity = answering(server).await;
        let (desk, mut orders) = mpsc::unbounded_channel();
        let socket = server.settings.socket.clone();
        let life = Arc::new(Life::new(server.name().to_owned(), socket, identity, None, 0, desk));
        server.admit(&life);
        server.set_seat(0, ServerState::Ready, None);
        log(server, Level::Info, format_args!("ready"));
        // Any doubt ends it: whoever holds the socket for the server (a service manager, a bridge) may be the same, and
        // the process behind it another one.
        tokio::select! {
            _ = orders.recv() => {}
            () = socket_replaced(server, identity) => log(server, Level::Notice, format_args!("has a new socket")),
        }
        server.dismiss(&life);
    }
}

/// Waits until the socket answers.
async fn answering(server: &Server) -> Identity {
    let begun = Instant::now();
    let mut pause = FIRST_LOOK;
    let mut warned = false;
    loop {
        // a full backlog is an answer too, but who answers is only known once connected
        if let Ok(Ok((_, identity))) = timeout(LAST_LOOK, connect_to(&server.settings.socket)).await {
            return identity;
        }
        server.set_seat(0, ServerState::Starting, None);
        if !warned && begun.elapsed() > server.deadlines.ready {
            warned = true;
            log(
                server,
                Level::Warn,
                format_args!(
                    "nothing answers at {} yet; is pluginserver_{}_socket the socket that it listens on?",
                    server.settings.socket.display(),
                    server.name().replace(['-', '.'], "_")
                ),
            );
        }
        sleep(pause).await;
        pause = (pause * 2).min(LAST_LOOK);
    }
}

/// Waits until the socket file is another one than that of `identity`.
async fn socket_replaced(server: &Server, identity: Identity) {
    loop {
        sleep(WATCH).await;
        if !fs::metadata(&server.settings.socket).is_ok_and(|file| identity.same_file(&file)) {
            return;
        }
    }
}

fn log(server: &Server, level: Level, message: std::fmt::Arguments<'_>) {
    silverback_log::write(level, format_args!("plugin server {} {message}", server.name()), None);
}
