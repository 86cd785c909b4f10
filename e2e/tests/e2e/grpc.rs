//! gRPC services, in clear text and over TLS, called by a client of tonic's.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use silverback_e2e::{Connection, Gateway, GrpcClient, GrpcUpstream, Running, Trial, free_port, pki::Authority};
use tokio::sync::mpsc;
use tokio_stream::iter;
use tonic::Code;

/// A gateway with one plugin on everything.
async fn gateway_with(upstream: &GrpcUpstream, plugin: Option<Value>) -> Running {
    let mut config = upstream.behind_everything();
    let mut gateway = Gateway::new();
    if let Some(config_of_plugin) = plugin {
        config["plugins"] = json!([{ "name": "trial-go", "config": config_of_plugin }]);
        gateway = gateway.plugin_servers([Trial::Go]);
    }
    gateway.config(config).start().await
}

/// Nothing, and a plugin in Go that looks at each request.
fn without_and_with_a_plugin() -> [Option<Value>; 2] {
    [None, Some(json!({ "header": "X-Checked", "value": "yes", "trace": "seen" }))]
}

async fn described(client: &GrpcClient, request: tonic::Request<Bytes>) -> Value {
    let answer = client.unary_request("Describe", request).await.unwrap();
    serde_json::from_slice(answer.get_ref()).unwrap()
}

/// The values of a header in a description.
fn received<'a>(description: &'a Value, name: &str) -> Vec<&'a str> {
    let headers = description["headers"].as_array().unwrap();
    headers.iter().filter(|pair| pair[0] == name).filter_map(|pair| pair[1].as_str()).collect()
}

#[tokio::test]
async fn a_message_and_its_trailers_pass_with_and_without_a_plugin() {
    let upstream = GrpcUpstream::start().await;
    for plugin in without_and_with_a_plugin() {
        let is_checked = plugin.is_some();
        let gateway = gateway_with(&upstream, plugin).await;
        let answer = gateway.grpc().await.unary("Echo", "hello").await.unwrap();
        assert_eq!(answer.get_ref(), "hello");
        // tonic puts headers and trailers together.
        let metadata = answer.metadata();
        assert_eq!(metadata.get("x-trailer").unwrap(), "passed");
        assert_eq!(metadata.get("x-served-by").unwrap(), "grpc");
        assert_eq!(metadata.get("via").unwrap(), "2 kong/3.9.3");
        assert!(metadata.get("x-kong-upstream-latency").is_some() && metadata.get("x-kong-proxy-latency").is_some());
        assert_eq!(metadata.get("x-checked").is_some(), is_checked);
    }
}

#[tokio::test]
async fn the_upstream_gets_what_kong_sends_it() {
    let upstream = GrpcUpstream::start().await;
    let gateway = gateway_with(&upstream, Some(json!({ "trace": "seen" }))).await;
    let mut request = tonic::Request::new(Bytes::from_static(b"hello"));
    request.set_timeout(Duration::from_secs(90));
    request.metadata_mut().insert("x-own", "kept".parse().unwrap());
    let description = described(&gateway.grpc().await, request).await;
    assert_eq!(description["path"], "/test.Service/Describe");
    assert_eq!(description["authority"], json!(upstream.target()));
    assert_eq!(description["scheme"], "http");
    assert_eq!(description["messages"], json!(["hello"]));
    for (name, expect) in [
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("grpc-timeout", "90000000u"),
        ("x-own", "kept"),
        ("x-trace", "seen"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "grpc.test"),
        ("x-forwarded-path", "/test.Service/Describe"),
        ("x-real-ip", "127.0.0.1"),
        ("via", "2 kong/3.9.3"),
    ] {
        assert_eq!(received(&description, name), [expect], "{name}: {description}");
    }
    for name in ["host", "connection", "transfer-encoding", "upgrade"] {
        assert_eq!(received(&description, name), [""; 0], "{name}");
    }
}

#[tokio::test]
async fn the_authority_is_kept_where_the_route_says_so() {
    let upstream = GrpcUpstream::start().await;
    let mut config = upstream.behind_everything();
    config["services"][0]["routes"][0]["preserve_host"] = json!(true);
    let gateway = Gateway::new().config(config).start().await;
    let description = described(&gateway.grpc().await, tonic::Request::new(Bytes::new())).await;
    assert_eq!(description["authority"], "grpc.test");
}

#[tokio::test]
async fn messages_stream_from_the_client_from_the_server_and_both_ways() {
    let upstream = GrpcUpstream::start().await;
    for plugin in without_and_with_a_plugin() {
        let gateway = gateway_with(&upstream, plugin).await;
        let client = gateway.grpc().await;
        let sent = iter((0..1000).map(|number| Bytes::from(format!("{number:0100}"))));
        let counted = client.streaming("Count", sent).await.unwrap().into_inner().message().await.unwrap();
        assert_eq!(counted.unwrap(), "1000");

        let mut repeated = client.streaming("Repeat", iter([Bytes::from_static(b"again")])).await.unwrap().into_inner();
        for _ in 0..5 {
            assert_eq!(repeated.message().await.unwrap().unwrap(), "again");
        }
        assert_eq!(repeated.message().await.unwrap(), None);
        assert_eq!(repeated.trailers().await.unwrap().unwrap().get("x-trailer").unwrap(), "passed");

        // Each message is answered before the next one is sent: nothing on the way waits for more.
        let (send, messages) = mpsc::channel::<Bytes>(1);
        let messages = tokio_stream::wrappers::ReceiverStream::new(messages);
        let mut talk = client.streaming("Echo", messages).await.unwrap().into_inner();
        for number in 0..20 {
            let message = Bytes::from(format!("message {number}"));
            send.send(message.clone()).await.unwrap();
            assert_eq!(talk.message().await.unwrap().unwrap(), message);
        }
        drop(send);
        assert_eq!(talk.message().await.unwrap(), None);
    }
}

#[tokio::test]
async fn large_messages_arrive_whole_both_ways() {
    let upstream = GrpcUpstream::start().await;
    let gateway = gateway_with(&upstream, None).await;
    let message = "x".repeat(3_000_000);
    assert_eq!(gateway.grpc().await.unary("Echo", &message).await.unwrap().get_ref(), message.as_bytes());
}

#[tokio::test]
async fn a_status_of_the_upstream_reaches_the_client() {
    let upstream = GrpcUpstream::start().await;
    let gateway = gateway_with(&upstream, None).await;
    let status = gateway.grpc().await.unary("Fail", "x").await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "as told"));
}

#[tokio::test]
async fn concurrent_requests_share_connections_as_far_as_the_upstream_allows() {
    for (max_streams, requests) in [(100, 60), (4, 20)] {
        let upstream = GrpcUpstream::with_max_streams(max_streams).await;
        let gateway =
            Gateway::new().conf("nginx_worker_processes = 1").config(upstream.behind_everything()).start().await;
        let client = gateway.grpc().await;
        // The upstream's settings are known from here on.
        client.unary("Echo", "first").await.unwrap();
        let mut senders = Vec::new();
        let mut talks = Vec::new();
        for _ in 0..requests {
            let (send, messages) = mpsc::channel::<Bytes>(1);
            send.send(Bytes::from_static(b"hello")).await.unwrap();
            let messages = tokio_stream::wrappers::ReceiverStream::new(messages);
            let mut talk = client.streaming("Echo", messages).await.unwrap().into_inner();
            assert_eq!(talk.message().await.unwrap().unwrap(), "hello");
            senders.push(send);
            talks.push(talk);
        }
        assert_eq!(upstream.most_live(), requests, "all are under way at the same time");
        assert_eq!(upstream.connections(), requests.div_ceil(max_streams as usize));
    }
}

#[tokio::test]
async fn a_client_that_resets_its_stream_resets_the_upstreams() {
    let upstream = GrpcUpstream::start().await;
    for plugin in without_and_with_a_plugin() {
        let gateway = gateway_with(&upstream, plugin).await;
        let client = gateway.grpc().await;
        let (send, messages) = mpsc::channel::<Bytes>(1);
        send.send(Bytes::from_static(b"x")).await.unwrap();
        let messages = tokio_stream::wrappers::ReceiverStream::new(messages);
        let mut talk = client.streaming("Hang", messages).await.unwrap().into_inner();
        assert_eq!(talk.message().await.unwrap().unwrap(), "hanging");
        drop((send, talk));
        assert_eq!(upstream.reset().await, h2::Reason::CANCEL);
    }
}

#[tokio::test]
async fn a_deadline_that_passes_ends_the_upstreams_stream_too() {
    let upstream = GrpcUpstream::start().await;
    let gateway = gateway_with(&upstream, None).await;
    let mut request = tonic::Request::new(Bytes::from_static(b"x"));
    // Long enough for the request to get there before.
    request.set_timeout(Duration::from_secs(3));
    let status = gateway.grpc().await.unary_request("Wait", request).await.unwrap_err();
    assert!(matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded), "{status:?}");
    assert_eq!(upstream.reset().await, h2::Reason::CANCEL);
}

#[tokio::test]
async fn a_stream_that_the_upstream_resets_ends_for_the_client() {
    let upstream = GrpcUpstream::start().await;
    let gateway = gateway_with(&upstream, None).await;
    let client = gateway.grpc().await;
    let mut talk = client.streaming("Reset", iter([Bytes::from_static(b"x")])).await.unwrap().into_inner();
    assert_eq!(talk.message().await.unwrap().unwrap(), "resetting");
    let status = talk.message().await.unwrap_err();
    assert!(format!("{status:?}").contains("INTERNAL_ERROR"), "{status:?}");
    assert_eq!(client.unary("Echo", "others go on").await.unwrap().get_ref(), "others go on");
}

#[tokio::test]
async fn a_plugin_answers_with_the_grpc_status_that_kong_gives() {
    let upstream = GrpcUpstream::start().await;
    for (exit, code) in [
        (401, Code::Unauthenticated),
        (403, Code::PermissionDenied),
        (404, Code::NotFound),
        (429, Code::ResourceExhausted),
        (418, Code::InvalidArgument),
        (503, Code::Unavailable),
        (500, Code::Internal),
    ] {
        let gateway = gateway_with(&upstream, Some(json!({ "exit": exit }))).await;
        let status = gateway.grpc().await.unary("Echo", "x").await.unwrap_err();
        assert_eq!((status.code(), status.message()), (code, "told to exit"), "{exit}");
    }
    assert_eq!(upstream.most_live(), 0);
}

#[tokio::test]
async fn errors_of_the_gateway_are_grpc_statuses() {
    let config = json!({ "services": [
        { "name": "dead", "url": format!("grpc://127.0.0.1:{}", free_port()), "retries": 1,
          "routes": [{ "protocols": ["grpc"], "paths": ["/test.Service/Echo"] }] },
    ] });
    let gateway = Gateway::new().config(config).start().await;
    let client = gateway.grpc().await;
    let status = client.unary("Echo", "x").await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Internal, "An invalid response was received from the upstream server")
    );
    let status = client.unary("Unknown", "x").await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "NotFound"));
    let mut http2 = gateway.http2().await;
    let request = http::Request::post("http://grpc.test/test.Service/Echo").header("content-type", "application/grpc");
    let answer = http2.request(request.body(Vec::new()).unwrap()).await;
    assert_eq!((answer.status, answer.header("grpc-status")), (502, Some("13")));
    assert_eq!((answer.header("content-type"), answer.header("content-length")), (None, Some("0")));
}

#[tokio::test]
async fn an_upstream_that_is_late_gets_deadline_exceeded() {
    let upstream = GrpcUpstream::start().await;
    // One that takes connections, and never reads or says anything on them.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    for url in [upstream.url(), format!("grpc://{}", silent.local_addr().unwrap())] {
        let config = json!({ "services": [{
            "name": "late", "url": url, "retries": 0, "read_timeout": 300, "write_timeout": 300,
            "routes": [{ "protocols": ["grpc"], "paths": ["/"] }],
        }] });
        let gateway = Gateway::new().config(config).start().await;
        let status = gateway.grpc().await.unary("Wait", "x").await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::DeadlineExceeded, "The upstream server is timing out"));
        gateway.logged_error(&["upstream timed out (110: Connection timed out) while reading response header"]).await;
    }
    assert_eq!(upstream.reset().await, h2::Reason::CANCEL);
}

#[tokio::test]
async fn clients_that_speak_no_grpc_are_refused() {
    let upstream = GrpcUpstream::start().await;
    let gateway = gateway_with(&upstream, None).await;
    let answer = gateway.get_with("/test.Service/Echo", &["Content-Type: application/grpc"]).await;
    assert_eq!((answer.status, answer.header("upgrade")), (426, Some("HTTP/2")));
    assert_eq!(answer.json()["message"], "Please use HTTP2 protocol");
    let answer = gateway.http2().await.get("http://grpc.test/test.Service/Echo").await;
    assert_eq!(answer.status, 415);
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn a_refused_stream_is_sent_again() {
    let upstream = GrpcUpstream::start().await;
    let config = json!({ "services": [{
        "name": "grpc", "url": upstream.url(), "routes": [{ "name": "grpc", "paths": ["/"] }],
    }] });
    let gateway = Gateway::new().config(config).start().await;
    // Without a body there is nothing that could be lost.
    let answer = gateway.get("/test.Service/Refuse").await;
    assert_eq!(answer.status, 200);
    assert!(answer.text().contains("\"path\":\"/test.Service/Refuse\""), "{answer:?}");
}

#[tokio::test]
async fn http_clients_can_reach_a_grpc_service_by_an_http_route() {
    let upstream = GrpcUpstream::start().await;
    let config = json!({ "services": [{
        "name": "grpc", "url": upstream.url(), "routes": [{ "name": "grpc", "paths": ["/"], "strip_path": false }],
    }] });
    let gateway = Gateway::new().config(config).start().await;
    let mut connection = Connection::open(gateway.proxy()).await;
    for _ in 0..2 {
        let answer = connection.request("POST", "/s/Describe", &["TE: trailers"], b"\0\0\0\0\x02hi").await;
        assert_eq!((answer.status, answer.version.as_str()), (200, "HTTP/1.1"));
        let description: Value = serde_json::from_slice(&answer.body[5..]).unwrap();
        assert_eq!(description["messages"], json!(["hi"]));
        assert_eq!(received(&description, "via"), ["1.1 kong/3.9.3"]);
    }
}

#[tokio::test]
async fn grpcs_asks_for_http2_and_the_name_of_the_upstream() {
    let authority = Authority::root("test root");
    let upstream = GrpcUpstream::secure(authority.issue("grpc.test").server()).await;
    let mut config = upstream.behind_everything();
    config["services"][0]["routes"][0]["preserve_host"] = json!(true);
    let gateway = Gateway::new().config(config);
    let trusted = gateway.directory().join("trusted.pem");
    std::fs::write(&trusted, authority.pem()).unwrap();
    let gateway = gateway
        .conf(&format!(
            "nginx_proxy_grpc_ssl_verify = on\nnginx_proxy_grpc_ssl_trusted_certificate = {}",
            trusted.display()
        ))
        .start()
        .await;
    let client = gateway.grpc().await;
    let description = described(&client, tonic::Request::new(Bytes::new())).await;
    assert_eq!((&description["scheme"], &description["authority"]), (&json!("https"), &json!("grpc.test")));
    assert_eq!(upstream.handshakes()[0].sni.as_deref(), Some("grpc.test"));
    // The certificate is for this name only.
    let mut http2 = gateway.http2().await;
    let request =
        http::Request::post("http://other.test/test.Service/Describe").header("content-type", "application/grpc");
    let answer = http2.request(request.body(Vec::new()).unwrap()).await;
    assert_eq!((answer.status, answer.header("grpc-status")), (502, Some("13")));
    gateway
        .logged_error(&["upstream SSL certificate does not match \"other.test\" while SSL handshaking to upstream"])
        .await;
}

#[tokio::test]
async fn the_access_log_has_grpc_requests() {
    let upstream = GrpcUpstream::start().await;
    let gateway = gateway_with(&upstream, None).await;
    gateway.grpc().await.unary("Echo", "hello").await.unwrap();
    gateway.logged_access(&["POST /test.Service/Echo HTTP/2.0", " 200 10 "]).await;
}
