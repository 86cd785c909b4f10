use hickory_proto::{
    op::{Message, OpCode},
    rr::{RData, Record, rdata::A},
};

use super::*;

fn resolver_of(server: std::net::SocketAddr) -> Resolver {
    let settings = silverback_config::load_text(None, "", &std::collections::BTreeMap::new()).unwrap().settings.dns;
    let resolver = Resolver::new(&Dns {
        servers: vec![server],
        order: vec![DnsType::A],
        hosts_file: "/nonexistent".into(),
        ..settings
    });
    resolver.spawn();
    resolver
}

/// A resolver that asks a server which answers every name but those that begin with `slow`.
async fn resolver() -> Resolver {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let resolver = resolver_of(socket.local_addr().unwrap());
    tokio::spawn(async move {
        let mut buffer = [0; 1024];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let question = Message::from_vec(&buffer[..length]).unwrap();
            let query = question.queries.first().unwrap().clone();
            if query.name().to_ascii().starts_with("slow") {
                continue;
            }
            let mut reply = Message::response(question.metadata.id, OpCode::Query);
            reply.add_answer(Record::from_rdata(query.name().clone(), 3600, RData::A(A::new(10, 0, 0, 1))));
            reply.add_query(query);
            let _ = socket.send_to(&reply.to_vec().unwrap(), from).await;
        }
    });
    resolver
}

#[tokio::test(start_paused = true)]
async fn a_target_that_does_not_resolve_is_asked_for_less_and_less_often() {
    // Not even a question can be sent there.
    let resolver = resolver_of("255.255.255.255:53".parse().unwrap());
    resolver.watch(["gone.test.".into()].into());
    let begun = Instant::now();
    let (mut times, mut last) = (Vec::new(), None);
    while begun.elapsed() < Duration::from_secs(100) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let expires = resolver.0.cache.state("gone.test.").map(|state| state.expires);
        if expires != last {
            last = expires;
            times.push(begun.elapsed().as_secs());
        }
    }
    assert_eq!(times, [0, 1, 3, 7, 15, 31, 61, 91]);
}

#[tokio::test]
async fn targets_that_are_slow_to_resolve_hold_up_no_request() {
    let resolver = resolver().await;
    resolver.watch((0..200).map(|n| format!("slow{n}.test.").into()).collect());
    // All places of those that nobody waits for are taken for seconds.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let answered = resolver.resolve("fast.test.", Duration::from_secs(6)).await;
    assert!(answered.is_ok(), "{answered:?}");
}

#[tokio::test]
async fn names_that_requests_ask_for_hold_up_no_target() {
    let resolver = resolver().await;
    for n in 0..200 {
        let resolver = resolver.clone();
        tokio::spawn(async move { resolver.resolve(&format!("slow{n}.test."), Duration::from_secs(60)).await });
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    resolver.watch(["fast.test.".into()].into());
    let known = async {
        while resolver.peek("fast.test.").is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(6), known).await.expect("the target is looked up");
    let answered = resolver.resolve("slow-and-gone.test.", Duration::from_millis(10)).await;
    assert_eq!(answered.err(), Some(ResolveError::Timeout));
}

#[tokio::test]
async fn every_one_of_thousands_of_targets_is_looked_up() {
    let resolver = resolver().await;
    let names: HashSet<Arc<str>> = (0..5000).map(|n| format!("n{n}.test.").into()).collect();
    resolver.watch(names.clone());
    let all = async {
        while names.iter().any(|name| resolver.peek(name).is_none()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), all).await.expect("all names are looked up");
}

#[tokio::test]
async fn names_that_nobody_waits_for_any_more_take_no_place() {
    let resolver = resolver().await;
    let give_up = |n: usize| {
        let resolver = resolver.clone();
        async move { resolver.resolve(&format!("slow{n}.test."), Duration::ZERO).await }
    };
    let mut given_up = JoinSet::new();
    (0..500).for_each(|n| drop(given_up.spawn(give_up(n))));
    while given_up.join_next().await.is_some() {}
    // The first of them have their places for some seconds yet, but the others are passed over.
    let answered = resolver.resolve("fast.test.", Duration::from_secs(25)).await;
    assert!(answered.is_ok(), "{answered:?}");
}
