//! TLS from clients: certificates, sessions, client certificates, the certificate phase.

use nix::sys::signal::Signal;
use rustls::SignatureScheme;
use serde_json::{Value, json};
use silverback_e2e::{
    Connection, Gate, Gateway, Handshake, Running, Step, TlsClient, Upstream,
    pki::{Authority, Identity},
    run_silverback,
};

/// A certificate and the names that it is for.
fn certificate(identity: &Identity, names: &[&str]) -> Value {
    let snis: Vec<_> = names.iter().map(|name| json!({ "name": name })).collect();
    json!({ "cert": identity.cert, "key": identity.key, "snis": snis })
}

/// The certificate that is shown for a server name.
async fn shown(gateway: &Running, name: &str) -> Vec<u8> {
    let (_, agreed) = TlsClient::new(gateway.tls()).connect(name).await.unwrap();
    agreed.certificate
}

#[tokio::test]
async fn the_server_name_chooses_the_certificate() {
    let (exact, beside, under) =
        (Identity::by_itself("exact"), Identity::by_itself("beside"), Identity::by_itself("under"));
    let config = json!({ "certificates": [
        certificate(&exact, &["a.example.com"]),
        certificate(&beside, &["*.example.com"]),
        certificate(&under, &["a.example.*"]),
    ] });
    let gateway = Gateway::new().config(config).start().await;
    for (name, identity) in
        [("a.example.com", &exact), ("A.EXAMPLE.com", &exact), ("b.example.com", &beside), ("a.example.org", &under)]
    {
        assert_eq!(shown(&gateway, name).await, identity.der(), "{name}");
    }
    let default = shown(&gateway, "example.com").await;
    assert!([&exact, &beside, &under].iter().all(|identity| identity.der() != default));
    // Without a name: an address is none.
    assert_eq!(shown(&gateway, "127.0.0.1").await, default);
}

#[tokio::test]
async fn the_admin_api_shows_a_certificate_of_its_own() {
    let identity = Identity::by_itself("admin.test");
    let gateway = Gateway::new()
        .admin_flag("ssl")
        .environment("KONG_ADMIN_SSL_CERT", &identity.cert)
        .environment("KONG_ADMIN_SSL_CERT_KEY", &identity.key)
        .start()
        .await;
    let (_, agreed) = TlsClient::new(gateway.admin_address()).connect("admin.test").await.unwrap();
    assert_eq!(agreed.certificate, identity.der());
    // The text is still whole where a reload reads it.
    let reload = gateway.command(&["reload"]).await;
    assert_eq!(reload.status, Some(0), "{reload:?}");
}

#[tokio::test]
async fn the_client_chooses_between_rsa_and_ecdsa() {
    let gateway = Gateway::new().start().await;
    let file = |name: &str| {
        let text = std::fs::read_to_string(gateway.path(&format!("ssl/{name}.crt"))).unwrap();
        Identity { cert: text, key: String::new() }.der()
    };
    let (rsa, ecdsa) = (file("kong-default"), file("kong-default-ecdsa"));
    let text = |name: &str| std::fs::read_to_string(gateway.path(&format!("ssl/{name}"))).unwrap();
    let twins = json!({
        "cert": text("kong-default.crt"), "key": text("kong-default.key"),
        "cert_alt": text("kong-default-ecdsa.crt"), "key_alt": text("kong-default-ecdsa.key"),
        "snis": [{ "name": "twins.test" }]
    });
    let other = Gateway::new().config(json!({ "certificates": [twins] })).start().await;
    for (schemes, expect) in [
        (&[SignatureScheme::RSA_PSS_SHA256, SignatureScheme::RSA_PKCS1_SHA256][..], &rsa),
        (&[SignatureScheme::ECDSA_NISTP256_SHA256], &ecdsa),
        (&[SignatureScheme::RSA_PSS_SHA256, SignatureScheme::ECDSA_NISTP256_SHA256], &rsa),
        (&[SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::RSA_PSS_SHA256], &ecdsa),
    ] {
        for (address, name) in [(gateway.tls(), "a.test"), (other.tls(), "twins.test")] {
            let (_, agreed) = TlsClient::new(address).schemes(schemes).connect(name).await.unwrap();
            assert!(agreed.certificate == *expect, "{name}: {schemes:?}");
        }
    }
}

/// A request, so that the tickets that follow the handshake are read.
async fn handshake(client: &TlsClient, name: &str) -> bool {
    let (mut connection, agreed) = client.connect(name).await.unwrap();
    connection.get("/", &[]).await;
    agreed.resumed
}

#[tokio::test]
async fn sessions_are_taken_up_again_also_after_a_reload() {
    let upstream = Upstream::echo().await;
    let mut config = upstream.behind_everything();
    for conf in ["", "ssl_session_tickets = off"] {
        let gateway = Gateway::new().conf(conf).config(config.clone()).start().await;
        let clients =
            [TlsClient::new(gateway.tls()), TlsClient::new(gateway.tls()).tls12()].map(TlsClient::with_sessions);
        for client in &clients {
            assert!(!handshake(client, "a.test").await);
            assert!(handshake(client, "a.test").await, "{conf}");
            assert!(!handshake(client, "b.test").await, "another name is another session");
        }
        config["consumers"] = json!([{ "username": "another" }]);
        gateway.rewrite_config(&config);
        gateway.signal(Signal::SIGHUP);
        gateway.logged_error(&["[notice]", "reloaded"]).await;
        for client in &clients {
            assert!(handshake(client, "a.test").await, "{conf}");
        }
    }
}

#[tokio::test]
async fn ciphers_and_protocols_are_those_of_the_configuration() {
    let upstream = Upstream::echo().await;
    let modern = Gateway::new().conf("ssl_cipher_suite = modern").config(upstream.behind_everything()).start().await;
    assert!(TlsClient::new(modern.tls()).tls12().connect("a.test").await.is_err());
    assert!(TlsClient::new(modern.tls()).connect("a.test").await.is_ok());
    let custom = "ssl_cipher_suite = custom
        ssl_protocols = TLSv1.2
        ssl_ciphers = ECDHE+AES256:ECDHE-ECDSA-AES128-GCM-SHA256:!RSA";
    let custom = Gateway::new().conf(custom).config(upstream.behind_everything()).start().await;
    let cipher = async |names: &[&str]| {
        let connected = TlsClient::new(custom.tls()).tls12().suites(names).connect("a.test").await;
        connected.map(|(_, agreed)| agreed.cipher).ok()
    };
    const AES128: &str = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256";
    const AES256: &str = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384";
    // ssl_prefer_server_ciphers is on.
    assert_eq!(cipher(&[AES128, AES256]).await.as_deref(), Some(AES256));
    assert_eq!(cipher(&[AES128]).await.as_deref(), Some(AES128));
    assert_eq!(cipher(&["TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"]).await, None);
    assert_eq!(cipher(&["TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"]).await, None);
}

#[tokio::test]
async fn alpn_agrees_on_what_the_client_can() {
    let gateway = Gateway::new().start().await;
    let protocol = async |names: &[&'static str]| {
        let connected = TlsClient::new(gateway.tls()).protocols(names).connect("a.test").await;
        connected.map(|(_, agreed)| agreed.protocol).map_err(|_| ())
    };
    assert_eq!(protocol(&["h2", "http/1.1"]).await, Ok(Some("h2".into())));
    assert_eq!(protocol(&["http/1.1"]).await, Ok(Some("http/1.1".into())));
    assert_eq!(protocol(&[]).await, Ok(None));
    assert_eq!(protocol(&["spdy/3"]).await, Err(()));
}

#[tokio::test]
async fn a_reload_changes_the_certificate_of_new_connections_only() {
    let gate = Gate::closed();
    let opened = gate.clone();
    let upstream = Upstream::scripted(move |_| {
        vec![Step::Wait(opened.clone()), Step::send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")]
    })
    .await;
    let (old, new) = (Identity::by_itself("old"), Identity::by_itself("new"));
    let mut config = upstream.behind_everything();
    config["certificates"] = json!([certificate(&old, &["a.test"])]);
    let gateway = Gateway::new().config(config.clone()).start().await;
    let (mut connection, agreed) = TlsClient::new(gateway.tls()).connect("a.test").await.unwrap();
    assert_eq!(agreed.certificate, old.der());
    connection.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    upstream.heads(1).await;
    config["certificates"] = json!([certificate(&new, &["a.test"])]);
    gateway.rewrite_config(&config);
    gateway.signal(Signal::SIGHUP);
    gateway.logged_error(&["[notice]", "reloaded"]).await;
    assert_eq!(shown(&gateway, "a.test").await, new.der());
    gate.open();
    assert_eq!(connection.response().await.text(), "done");
    assert_eq!(connection.get("/", &[]).await.text(), "done", "the connection goes on");
}

#[tokio::test]
async fn clear_text_on_a_tls_port_is_told_so() {
    let gateway = Gateway::new().start().await;
    let answer = Connection::open(gateway.tls()).await.get("/", &[]).await;
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("The plain HTTP request was sent to HTTPS port"), "{answer:?}");
}

/// A gateway with a plugin at work in the handshake.
async fn with_plugin(handshake: Handshake, plugin: Value) -> (Upstream, Running) {
    let upstream = Upstream::echo().await;
    let mut config = upstream.behind_everything();
    config["plugins"] = json!([{ "name": handshake.plugin(), "config": plugin }]);
    let gateway = Gateway::new().plugin_servers([handshake]).config(config).start().await;
    (upstream, gateway)
}

#[tokio::test]
async fn a_plugin_asks_for_a_certificate_and_sees_it() {
    let authority = Authority::root("authority.test");
    let below = authority.below("below.test");
    for (handshake, identity, verdict) in [
        (Handshake::Python, Some(below.issue("client.test")), "FAILED:unable to get local issuer certificate"),
        (Handshake::JavaScript, Some(authority.issue("client.test")), "FAILED:unable to verify the first certificate"),
        (Handshake::Python, Some(Identity::by_itself("client.test")), "FAILED:self-signed certificate"),
        (Handshake::Python, None, "NONE"),
    ] {
        let show = ["chain", "ssl_client_verify", "ssl_client_s_dn", "ssl_client_i_dn", "ssl_protocol"];
        let (_upstream, gateway) = with_plugin(handshake, json!({ "ask": true, "show": show })).await;
        for tls12 in [false, true] {
            let mut client = TlsClient::new(gateway.tls());
            if let Some(identity) = &identity {
                client = client.certificate(identity);
            }
            if tls12 {
                client = client.tls12();
            }
            let (mut connection, _) = client.connect("a.test").await.unwrap();
            let answer = connection.get("/", &[]).await.json();
            assert_eq!(answer["ssl_client_verify"], verdict, "{answer}");
            assert_eq!(answer["ssl_protocol"], if tls12 { "TLSv1.2" } else { "TLSv1.3" });
            match &identity {
                Some(identity) => {
                    assert_eq!(
                        answer["chain"].as_str().map(|pem| pem.replace('\r', "")),
                        Some(identity.cert.replace('\r', ""))
                    );
                    assert_eq!(answer["ssl_client_s_dn"], "O=Trials\\, Ltd.,CN=client.test");
                }
                None => assert_eq!(answer["chain"], Value::Null),
            }
        }
    }
}

#[tokio::test]
async fn without_a_plugin_or_a_setting_clients_are_not_asked() {
    let (_upstream, gateway) = with_plugin(Handshake::Python, json!({ "show": ["chain", "ssl_client_verify"] })).await;
    let client = TlsClient::new(gateway.tls()).certificate(&Identity::by_itself("client.test"));
    let (mut connection, _) = client.connect("a.test").await.unwrap();
    assert_eq!(connection.get("/", &[]).await.json()["ssl_client_verify"], "NONE");
}

#[tokio::test]
async fn a_plugin_forbids_that_a_session_is_taken_up_again() {
    for handshake_plugin in [Handshake::Python, Handshake::JavaScript] {
        let (_upstream, gateway) = with_plugin(handshake_plugin, json!({ "forbid_reuse": true })).await;
        for client in [TlsClient::new(gateway.tls()), TlsClient::new(gateway.tls()).tls12()] {
            let client = client.with_sessions();
            assert!(!handshake(&client, "a.test").await);
            assert!(!handshake(&client, "a.test").await);
        }
    }
}

#[tokio::test]
async fn a_plugin_that_refuses_or_fails_refuses_the_handshake() {
    for handshake in [Handshake::Python, Handshake::JavaScript] {
        for refuse in ["exit", "error", "call"] {
            let (upstream, gateway) = with_plugin(handshake, json!({ "refuse": refuse })).await;
            for _ in 0..2 {
                assert!(TlsClient::new(gateway.tls()).connect("a.test").await.is_err(), "{handshake:?} {refuse}");
            }
            assert_eq!(gateway.get("/").await.status, 200, "clear text has no handshake");
            assert_eq!(upstream.requests().len(), 1);
        }
    }
}

#[tokio::test]
async fn a_plugin_runs_again_when_a_session_is_taken_up_again() {
    let (_upstream, gateway) = with_plugin(Handshake::Python, json!({})).await;
    let client = TlsClient::new(gateway.tls()).with_sessions();
    handshake(&client, "a.test").await;
    assert!(handshake(&client, "a.test").await);
    let upstream = Upstream::echo().await;
    let mut config = upstream.behind_everything();
    config["plugins"] = json!([{ "name": "handshake-py", "config": { "refuse": "exit" } }]);
    gateway.rewrite_config(&config);
    gateway.signal(Signal::SIGHUP);
    gateway.logged_error(&["[notice]", "reloaded"]).await;
    assert!(client.connect("a.test").await.is_err(), "a ticket is no way past a plugin");
}

#[tokio::test]
async fn what_a_handshake_shared_is_not_seen_by_requests() {
    let (_upstream, gateway) =
        with_plugin(Handshake::Python, json!({ "share": "from the handshake", "show": ["shared"] })).await;
    let (mut connection, _) = TlsClient::new(gateway.tls()).connect("a.test").await.unwrap();
    assert_eq!(connection.get("/", &[]).await.json()["shared"], Value::Null);
}

#[tokio::test]
async fn a_client_that_leaves_a_handshake_disturbs_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("go-on");
    let (_upstream, gateway) = with_plugin(Handshake::Python, json!({ "wait_for": file })).await;
    let client = TlsClient::new(gateway.tls());
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.connect("a.test").await.map(|_| ()) }
    });
    gateway.logged_error(&["waits in the handshake"]).await;
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    std::fs::write(&file, "").unwrap();
    let (mut connection, _) = client.connect("a.test").await.unwrap();
    assert_eq!(connection.get("/", &[]).await.status, 200);
}

#[tokio::test]
async fn ssl_verify_client_demands_a_certificate_of_an_authority() {
    let (authority, other) = (Authority::root("authority.test"), Authority::root("other.test"));
    let below = authority.below("below.test");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    std::fs::write(&file, authority.pem()).unwrap();
    let upstream = Upstream::echo().await;
    let status = async |gateway: &Running, identity: Option<&Identity>| {
        let mut client = TlsClient::new(gateway.tls());
        if let Some(identity) = identity {
            client = client.certificate(identity);
        }
        let (mut connection, _) = client.connect("a.test").await.unwrap();
        connection.get("/", &[]).await.status
    };
    let (good, deep, bad) = (authority.issue("good.test"), below.issue("deep.test"), other.issue("bad.test"));
    for (mode, none, foreign) in [("on", 400, 400), ("optional", 200, 400), ("optional_no_ca", 200, 200)] {
        let conf = format!(
            "nginx_proxy_ssl_verify_client = {mode}\nnginx_proxy_ssl_client_certificate = {}\n\
             nginx_http_log_format = tls '$ssl_client_verify $ssl_client_s_dn $ssl_client_serial'\n\
             proxy_access_log = logs/access.log tls",
            file.display()
        );
        let gateway = Gateway::new().conf(&conf).config(upstream.behind_everything()).start().await;
        assert_eq!(status(&gateway, None).await, none, "{mode}");
        assert_eq!(status(&gateway, Some(&bad)).await, foreign, "{mode}");
        assert_eq!(status(&gateway, Some(&good)).await, 200, "{mode}");
        assert_eq!(status(&gateway, Some(&deep)).await, 200, "{mode}");
        gateway.logged_access(&["SUCCESS O=Trials\\x5C, Ltd.,CN=good.test "]).await;
        gateway.logged_access(&["FAILED:unable to verify the first certificate O=Trials\\x5C, Ltd.,CN=bad.test"]).await;
        assert_eq!(gateway.get("/").await.status, 200, "clear text has no certificates");
    }
}

#[tokio::test]
async fn a_session_remembers_the_clients_certificate() {
    let (_upstream, gateway) =
        with_plugin(Handshake::Python, json!({ "ask": true, "show": ["ssl_client_s_dn", "ssl_session_reused"] })).await;
    let client = TlsClient::new(gateway.tls()).certificate(&Identity::by_itself("client.test")).with_sessions();
    for reused in [".", "r"] {
        let (mut connection, _) = client.connect("a.test").await.unwrap();
        let answer = connection.get("/", &[]).await.json();
        let expect = json!({ "ssl_client_s_dn": "O=Trials\\, Ltd.,CN=client.test", "ssl_session_reused": reused });
        assert_eq!(answer, expect);
    }
}

#[tokio::test]
async fn check_names_what_rustls_does_not_have() {
    let gateway = Gateway::new()
        .conf("ssl_cipher_suite = custom\nssl_protocols = TLSv1.1 TLSv1.3\nssl_ciphers = DHE-RSA-AES128-SHA:HIGH")
        .start()
        .await;
    let ended = run_silverback(&["check", gateway.path("kong.conf").to_str().unwrap()], &[]).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    let said = ended.stdout + &ended.stderr;
    assert!(said.contains("TLSv1.1") && said.contains("DHE-RSA-AES128-SHA"), "{said}");
}
