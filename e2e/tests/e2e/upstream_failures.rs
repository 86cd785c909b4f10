//! Upstreams that fail: what is sent again, and what never.

use std::{collections::HashSet, sync::Mutex};

use serde_json::{Value, json};
use silverback_e2e::{Gate, Gateway, GrpcUpstream, Step, Upstream};

/// A service with so many retries.
fn retrying(upstream: &Upstream, retries: u32) -> Value {
    let mut config = upstream.behind_everything();
    config["services"][0]["retries"] = json!(retries);
    config
}

#[tokio::test]
async fn an_upstream_that_closes_at_once_is_tried_as_often_as_the_service_says() {
    for retries in [0, 1, 5] {
        let upstream = Upstream::closing().await;
        let gateway = Gateway::new().config(retrying(&upstream, retries)).start().await;
        assert_eq!(gateway.get("/").await.status, 502);
        assert_eq!(upstream.connections(), retries as usize + 1);
        // What of it is seen first, the end or the reset, is for the kernel to say.
        gateway.logged_error(&["[error]", " while reading response header from upstream"]).await;
    }
}

#[tokio::test]
async fn what_is_idempotent_is_sent_again_and_nothing_else() {
    for (method, times) in
        [("GET", 3), ("HEAD", 3), ("PUT", 3), ("DELETE", 3), ("OPTIONS", 3), ("POST", 1), ("PATCH", 1), ("LOCK", 1)]
    {
        let upstream = Upstream::scripted(|_| vec![Step::Close]).await;
        let gateway = Gateway::new().config(retrying(&upstream, 2)).start().await;
        let answer = gateway.connect().await.request(method, "/", &[], b"body").await;
        assert_eq!(answer.status, 502, "{method}");
        let requests = upstream.requests();
        assert_eq!(requests.len(), times, "{method}");
        assert!(requests.iter().all(|request| request.body == b"body"), "{method}: {requests:?}");
    }
}

#[tokio::test]
async fn a_body_that_streams_is_not_sent_again() {
    let upstream = Upstream::scripted(|_| vec![Step::Close]).await;
    let mut config = retrying(&upstream, 5);
    config["services"][0]["routes"][0]["request_buffering"] = json!(false);
    let gateway = Gateway::new().config(config).start().await;
    let answer = gateway.connect().await.request("PUT", "/", &[], b"body").await;
    assert_eq!(answer.status, 502);
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn an_answer_that_has_begun_is_not_asked_for_again() {
    for begun in
        ["HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"]
    {
        let upstream = Upstream::scripted(move |_| vec![Step::send(begun), Step::Close]).await;
        let gateway = Gateway::new().config(retrying(&upstream, 5)).start().await;
        let mut connection = gateway.connect().await;
        connection.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answer = connection.closed().await;
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 200 "), "{answer:?}");
        assert_eq!(upstream.requests().len(), 1);
    }
}

#[tokio::test]
async fn half_a_head_is_no_answer() {
    let upstream = Upstream::scripted(|request| {
        if request.connection == 0 {
            vec![Step::send("HTTP/1.1 200 OK\r\nContent-Le"), Step::Close]
        } else {
            vec![Step::send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")]
        }
    })
    .await;
    let gateway = Gateway::new().config(retrying(&upstream, 1)).start().await;
    assert_eq!(gateway.get("/").await.text(), "ok");
}

#[tokio::test]
async fn each_try_has_its_own_timeout() {
    let upstream = Upstream::scripted(|request| {
        if request.connection < 2 {
            vec![Step::Pause(std::time::Duration::from_secs(3600))]
        } else {
            vec![Step::send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")]
        }
    })
    .await;
    let mut config = retrying(&upstream, 2);
    config["services"][0]["read_timeout"] = json!(2000);
    let gateway = Gateway::new().config(config).start().await;
    assert_eq!(gateway.get("/").await.text(), "ok");
    assert_eq!(upstream.connections(), 3);
}

#[tokio::test]
async fn an_idle_connection_that_the_upstream_closed_costs_no_try() {
    // Every second request finds its connection closed.
    let upstream =
        Upstream::scripted(|_| vec![Step::send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), Step::Close]).await;
    let gateway = Gateway::new().conf("nginx_worker_processes = 1").config(retrying(&upstream, 0)).start().await;
    let mut connection = gateway.connect().await;
    for _ in 0..20 {
        assert_eq!(connection.get("/", &[]).await.status, 200);
    }
}

#[tokio::test]
async fn idle_connections_that_carry_no_second_request_cost_no_try_however_many_there_are() {
    const CONNECTIONS: usize = 8;
    // A firewall in between forgot them all, for example: that shows when they are used.
    let (used, gate) = (Mutex::new(HashSet::new()), Gate::closed());
    let upstream = Upstream::scripted({
        let gate = gate.clone();
        move |request| {
            if used.lock().unwrap().insert(request.connection) {
                vec![Step::Wait(gate.clone()), Step::send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")]
            } else {
                vec![Step::Close]
            }
        }
    })
    .await;
    let gateway = Gateway::new().conf("nginx_worker_processes = 1").config(retrying(&upstream, 0)).start().await;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut client = gateway.connect().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        clients.push(client);
    }
    upstream.heads(CONNECTIONS).await;
    gate.open();
    for client in &mut clients {
        assert_eq!(client.response().await.status, 200);
    }
    assert_eq!(clients[0].get("/", &[]).await.status, 200);
    assert_eq!(upstream.connections(), CONNECTIONS + 1);
}

#[tokio::test]
async fn a_grpc_upstream_that_was_restarted_is_reached_again() {
    let first = GrpcUpstream::start().await;
    let target = first.target();
    let gateway = Gateway::new().config(first.behind_everything()).start().await;
    let client = gateway.grpc().await;
    assert_eq!(client.unary("Echo", "one").await.unwrap().get_ref(), "one");
    drop(first);
    let second = GrpcUpstream::at(&target).await;
    for message in ["two", "three"] {
        assert_eq!(client.unary("Echo", message).await.unwrap().get_ref(), message);
    }
    assert!(second.connections() >= 1);
}
