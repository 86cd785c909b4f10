use super::{
    super::{Endpoint, RecordKind},
    *,
};

const TTL: Duration = Duration::from_secs(10);
const STALE: Duration = Duration::from_secs(60);
const CAPACITY: Capacity = Capacity { names: 100, records: 1000 };

fn answer(ips: &[&str]) -> Arc<Answer> {
    let endpoint =
        |ip: &&str| Endpoint { host: (*ip).into(), ips: vec![ip.parse().unwrap()], port: None, weight: None };
    Arc::new(Answer::new(RecordKind::A, ips.iter().map(endpoint).collect()))
}

fn store(cache: &Cache, name: &str, ips: &[&str]) -> bool {
    cache.store(&name.into(), State::answer(answer(ips), TTL, STALE, Instant::now()), CAPACITY, |_| false)
}

/// What a look finds, in a word.
fn look(cache: &Cache, name: &str) -> &'static str {
    match cache.look(name, Instant::now()) {
        Found::Fresh(Ok(_)) => "fresh",
        Found::Fresh(Err(_)) => "failed",
        Found::Stale { refresh: true, .. } => "stale, to be asked for",
        Found::Stale { refresh: false, .. } => "stale",
        Found::Nothing => "nothing",
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_fresh_then_stale_then_gone() {
    let cache = Cache::default();
    assert_eq!(look(&cache, "a"), "nothing");
    assert!(store(&cache, "a", &["10.0.0.1"]));
    assert_eq!(look(&cache, "a"), "fresh");
    tokio::time::advance(TTL).await;
    // Only the first to find it asks.
    assert_eq!(look(&cache, "a"), "stale, to be asked for");
    assert_eq!(look(&cache, "a"), "stale");
    cache.not_asked("a");
    assert_eq!(look(&cache, "a"), "stale, to be asked for");
    tokio::time::advance(STALE).await;
    assert_eq!(look(&cache, "a"), "nothing");
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_never_used_after_its_time() {
    let cache = Cache::default();
    let state = State::failure(ResolveError::Empty, TTL, Instant::now());
    cache.store(&"a".into(), state, CAPACITY, |_| false);
    assert_eq!(look(&cache, "a"), "failed");
    tokio::time::advance(TTL).await;
    assert_eq!(look(&cache, "a"), "nothing");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_has_not_changed_stays_the_same() {
    let cache = Cache::default();
    store(&cache, "a", &["10.0.0.1", "10.0.0.2"]);
    let first = cache.state("a").unwrap().outcome.clone().unwrap();
    assert!(!store(&cache, "a", &["10.0.0.1", "10.0.0.2"]));
    assert!(Arc::ptr_eq(&first, &cache.state("a").unwrap().outcome.clone().unwrap()));
    assert!(store(&cache, "a", &["10.0.0.1"]));
    assert!(!Arc::ptr_eq(&first, &cache.state("a").unwrap().outcome.clone().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_back_after_its_time_is_news() {
    let cache = Cache::default();
    store(&cache, "a", &["10.0.0.1"]);
    tokio::time::advance(TTL).await;
    assert!(!store(&cache, "a", &["10.0.0.1"]));
    tokio::time::advance(TTL + STALE).await;
    assert!(store(&cache, "a", &["10.0.0.1"]));
}

#[tokio::test(start_paused = true)]
async fn a_full_cache_forgets_what_was_used_the_longest_ago() {
    let cache = Cache::default();
    for n in 0..100 {
        store(&cache, &format!("n{n}"), &["10.0.0.1"]);
        tokio::time::advance(Duration::from_millis(5)).await;
    }
    look(&cache, "n0");
    let state = State::answer(answer(&["10.0.0.1"]), TTL, STALE, Instant::now());
    cache.store(&"new".into(), state, CAPACITY, |name| name == "n1");
    assert!(cache.len() <= 100);
    assert_eq!((look(&cache, "n0"), look(&cache, "n1"), look(&cache, "n2")), ("fresh", "fresh", "nothing"));
    assert_eq!(look(&cache, "new"), "fresh");
}

#[tokio::test(start_paused = true)]
async fn a_cache_with_too_many_records_forgets_what_was_used_the_longest_ago() {
    let cache = Cache::default();
    let many: Vec<String> = (0..200).map(|n| format!("10.0.0.{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let put = |name: &str, ips: &[&str]| {
        let state = State::answer(answer(ips), TTL, STALE, Instant::now());
        cache.store(&name.into(), state, CAPACITY, |name| name.starts_with("kept"));
    };
    put("kept", &many);
    for name in ["a", "b", "c", "d", "e"] {
        put(name, &many);
        tokio::time::advance(Duration::from_millis(5)).await;
    }
    // What is kept does not count.
    assert_eq!((cache.len(), cache.records()), (6, 1200));
    look(&cache, "a");
    put("f", &["10.0.0.1"]);
    assert_eq!((look(&cache, "a"), look(&cache, "b"), look(&cache, "c")), ("fresh", "nothing", "fresh"));
    assert_eq!((look(&cache, "f"), look(&cache, "kept"), cache.records()), ("fresh", "fresh", 1001));
    // A name that is there may come to stand for more, or less.
    put("f", &many);
    assert_eq!((look(&cache, "f"), cache.records()), ("fresh", 1200));
    put("f", &["10.0.0.1"]);
    cache.remove("a");
    assert_eq!(cache.records(), 801);
    cache.remove_all(&["kept".into(), "c".into()].into());
    assert_eq!((cache.records(), cache.len()), (401, 3));
}

#[test]
fn addresses_take_turns() {
    let firsts = |answer: &Answer| -> Vec<String> {
        (0..4).filter_map(|_| answer.in_turn().next()).map(|(ip, _)| ip.to_string()).collect()
    };
    assert_eq!(firsts(&answer(&["10.0.0.1", "10.0.0.2"])), ["10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.2"]);
    let service = |weight, ips: &[&str]| Endpoint {
        host: "h".into(),
        ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        port: Some(80),
        weight: Some(weight),
    };
    // Two addresses behind one name share its turns; a name without any has none.
    let services = vec![service(1, &["10.0.0.1", "10.0.0.2"]), service(1, &["10.0.0.3"])];
    assert_eq!(firsts(&Answer::new(RecordKind::Srv, services)), ["10.0.0.1", "10.0.0.3", "10.0.0.2", "10.0.0.3"]);
    let services = vec![service(9, &[]), service(1, &["10.0.0.3"])];
    assert_eq!(firsts(&Answer::new(RecordKind::Srv, services)), ["10.0.0.3"; 4]);
}
