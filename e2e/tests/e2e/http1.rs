//! HTTP/1.1 as clients speak it.

use serde_json::json;
use silverback_e2e::{Gate, Gateway, Running, Step, Upstream, eventually};

/// A gateway that has a route for `/known` only.
async fn knowing_one_path(upstream: &Upstream) -> Running {
    Gateway::new().config(json!({ "services": [upstream.service("one", &["/known"])] })).start().await
}

#[tokio::test]
async fn a_connection_serves_many_requests_and_so_does_the_one_to_the_upstream() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().conf("nginx_worker_processes = 1").config(upstream.behind_everything()).start().await;
    let mut connection = gateway.connect().await;
    for number in 0..50 {
        let path = format!("/{number}");
        assert_eq!(connection.get(&path, &[]).await.json()["target"], path);
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut connection = gateway.connect().await;
    let requests: String =
        (0..5).map(|n| format!("POST /{n} HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n{n}")).collect();
    connection.send(requests).await;
    for number in 0..5 {
        let answer = connection.response().await;
        assert_eq!(answer.json()["target"], format!("/{number}"));
        assert_eq!(answer.json()["body"], number.to_string());
    }
}

#[tokio::test]
async fn a_request_may_come_byte_by_byte() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut connection = gateway.connect().await;
    for byte in b"POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello" {
        connection.send([*byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(connection.response().await.json()["body"], "hello");
}

#[tokio::test]
async fn connection_close_is_honoured() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut connection = gateway.connect().await;
    let answer = connection.get("/", &["Connection: close"]).await;
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(connection.closed().await, b"");
}

#[tokio::test]
async fn http_1_0_clients_get_an_answer_that_ends_with_the_connection() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut connection = gateway.connect().await;
    connection.send("GET /old HTTP/1.0\r\nHost: a\r\n\r\n").await;
    let answer = connection.response().await;
    assert_eq!(answer.json()["target"], "/old");
    assert_eq!(connection.closed().await, b"");
}

#[tokio::test]
async fn http_1_0_clients_may_keep_their_connection_where_the_length_is_known() {
    let upstream = Upstream::scripted(|request| {
        let answer = match request.target.as_str() {
            "/known" => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nknown",
            _ => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n1\r\nt\r\n0\r\n\r\n",
        };
        vec![Step::send(answer)]
    })
    .await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut connection = gateway.connect().await;
    for _ in 0..2 {
        connection.send("GET /known HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n").await;
        let answer = connection.response().await;
        assert_eq!((answer.text().as_str(), answer.header("connection")), ("known", Some("keep-alive")));
    }
    connection.send("GET /other HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n").await;
    let answer = String::from_utf8(connection.closed().await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nnot"), "{answer:?}");
    assert!(answer.contains("\r\nConnection: close\r\n") && !answer.contains("chunked"), "{answer:?}");
}

#[tokio::test]
async fn a_client_that_says_both_close_and_keep_alive_wants_its_connection_closed() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    for version in ["1.0", "1.1"] {
        let mut connection = gateway.connect().await;
        connection.send(format!("GET / HTTP/{version}\r\nHost: a\r\nConnection: keep-alive, close\r\n\r\n")).await;
        assert_eq!(connection.response().await.header("connection"), Some("close"));
        assert_eq!(connection.closed().await, b"");
    }
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_a_head_is_in_the_access_log() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut connection = gateway.connect().await;
    connection.send("GET /half HTTP/1.1\r\nHo").await;
    drop(connection);
    gateway.logged_access(&["GET /half", " 400 "]).await;
}

#[tokio::test]
async fn a_small_body_that_nobody_wants_does_not_end_the_connection() {
    let upstream = Upstream::echo().await;
    let gateway = knowing_one_path(&upstream).await;
    let mut connection = gateway.connect().await;
    for body in ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"] {
        connection.send(format!("POST /unknown HTTP/1.1\r\nHost: a\r\n{body}")).await;
        assert_eq!(connection.response().await.status, 404);
    }
    assert_eq!(connection.get("/known", &[]).await.json()["target"], "/known");
}

#[tokio::test]
async fn a_client_whose_body_is_not_wanted_is_not_told_to_send_it() {
    let upstream = Upstream::echo().await;
    let gateway = knowing_one_path(&upstream).await;
    let mut connection = gateway.connect().await;
    connection.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n").await;
    let answer = connection.response().await;
    assert_eq!((answer.status, answer.interim.len(), answer.header("connection")), (404, 0, Some("close")));
    assert_eq!(connection.closed().await, b"");
}

#[tokio::test]
async fn no_100_continue_is_sent_to_a_client_that_did_not_wait_for_it() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut connection = gateway.connect().await;
    connection.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello").await;
    let answer = connection.response().await;
    assert_eq!((answer.json()["body"].as_str(), answer.interim.len()), (Some("hello"), 0));
}

#[tokio::test]
async fn a_client_that_leaves_while_it_waits_is_noticed() {
    let upstream = Upstream::scripted(|_| vec![Step::Wait(Gate::closed())]).await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    // With a body that has come, and one that has not been sent to its end.
    for (request, status) in [
        ("POST /whole HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", " 499 "),
        ("POST /part HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel", " 400 "),
    ] {
        let path = request.split(' ').nth(1).unwrap();
        let mut connection = gateway.connect().await;
        connection.send(request).await;
        if path == "/whole" {
            eventually("the upstream has it", || (!upstream.requests().is_empty()).then_some(())).await;
        }
        drop(connection);
        eventually("its line in the access log", || {
            gateway.access_log().lines().any(|line| line.contains(path) && line.contains(status)).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn head_gets_the_headers_without_the_body() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut connection = gateway.connect().await;
    let answer = connection.request("HEAD", "/", &[], b"").await;
    assert_eq!((answer.status, answer.header("x-origin")), (200, Some("echo")));
    assert!(answer.header("content-length").is_some_and(|length| length != "0"), "{answer:?}");
    assert_eq!(connection.get("/next", &[]).await.json()["target"], "/next", "nothing of a body was left behind");
}

#[tokio::test]
async fn statuses_without_a_body_have_none() {
    for status in ["204 No Content", "304 Not Modified"] {
        let upstream = Upstream::sending(format!("HTTP/1.1 {status}\r\nX-Kept: 1\r\n\r\n")).await;
        let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
        let mut connection = gateway.connect().await;
        for _ in 0..2 {
            let answer = connection.get("/", &[]).await;
            assert_eq!(answer.status.to_string(), status[..3]);
            assert_eq!((answer.header("x-kept"), answer.header("transfer-encoding")), (Some("1"), None));
        }
    }
}

#[tokio::test]
async fn a_client_that_expects_100_continue_gets_it() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut connection = gateway.connect().await;
    connection.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n").await;
    assert_eq!(connection.response_head().await.status, 100);
    connection.send("hello").await;
    assert_eq!(connection.response().await.json()["body"], "hello");
    assert_eq!(connection.get("/next", &[]).await.status, 200);
}

#[tokio::test]
async fn trailers_of_the_upstream_do_not_disturb_the_answer() {
    let upstream = Upstream::sending(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n",
    )
    .await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut connection = gateway.connect().await;
    for _ in 0..2 {
        let answer = connection.get("/", &["TE: trailers"]).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    }
}

#[tokio::test]
async fn trailers_of_a_request_do_not_become_another_request() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut connection = gateway.connect().await;
    connection
        .send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n")
        .await;
    assert_eq!(connection.response().await.json()["body"], "hello");
    assert_eq!(connection.get("/next", &[]).await.json()["target"], "/next");
    assert_eq!(upstream.requests().len(), 2);
}

#[tokio::test]
async fn header_names_keep_their_case_both_ways() {
    let upstream = Upstream::sending("HTTP/1.1 200 OK\r\nx-LoWeR-UpPeR: 1\r\nContent-Length: 0\r\n\r\n").await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let answer = gateway.get_with("/", &["x-MiXeD: 1"]).await;
    assert!(answer.headers.iter().any(|(name, _)| name == "x-LoWeR-UpPeR"), "{answer:?}");
    let request = upstream.request();
    assert!(request.headers.iter().any(|(name, _)| name == "x-MiXeD"), "{request:?}");
}

#[tokio::test]
async fn hop_by_hop_headers_stay_on_their_hop() {
    let upstream = Upstream::sending(
        "HTTP/1.1 200 OK\r\nConnection: X-Private\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let answer =
        gateway.get_with("/", &["Connection: keep-alive, X-Mine", "X-Mine: 1", "Keep-Alive: 1", "TE: trailers"]).await;
    let request = upstream.request();
    assert_eq!((request.header("x-mine"), request.header("keep-alive")), (None, None), "{request:?}");
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn two_set_cookie_headers_stay_two() {
    let upstream =
        Upstream::sending("HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n").await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    assert_eq!(gateway.get("/").await.all("set-cookie"), ["a=1", "b=2"]);
}

#[tokio::test]
async fn an_answer_arrives_as_it_is_made() {
    let gate = Gate::closed();
    let upstream = Upstream::scripted({
        let gate = gate.clone();
        move |_| {
            vec![
                Step::send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"),
                Step::send("9\r\ndata: 1\n\n\r\n"),
                Step::Wait(gate.clone()),
                Step::send("9\r\ndata: 2\n\n\r\n0\r\n\r\n"),
            ]
        }
    })
    .await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut connection = gateway.connect().await;
    connection.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(connection.response_head().await.status, 200);
    let mut come = String::new();
    while !come.contains("data: 1") {
        come += &String::from_utf8_lossy(&connection.read_some().await);
    }
    gate.open();
    while !come.ends_with("0\r\n\r\n") {
        come += &String::from_utf8_lossy(&connection.read_some().await);
    }
    assert!(come.contains("data: 2"));
}

#[tokio::test]
async fn tls_clients_are_served_too() {
    let upstream = Upstream::echo().await;
    let gateway = Gateway::new().config(upstream.behind_everything()).start().await;
    let mut connection = gateway.connect_tls("example.test").await;
    let answer = connection.get("/secret", &[]).await;
    assert_eq!(answer.json()["target"], "/secret");
    assert_eq!(answer.echoed("x-forwarded-proto"), ["https"]);
    assert_eq!(connection.get("/again", &[]).await.status, 200);
}
