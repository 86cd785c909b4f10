//! How long it takes to find a route among many, beside `atc-router`.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion};
use silverback_router::Router;
use silverback_router_bench::{
    atc::{Atc, schema},
    workload::{Request, requests, routes, snapshot},
};

const REQUESTS: usize = 500;
const SIZES: [usize; 3] = [10, 1_000, 10_000];

/// Nanoseconds a request, the best of several rounds.
fn time(requests: &[Request], rounds: usize, mut find: impl FnMut(&Request)) -> f64 {
    let round = |find: &mut dyn FnMut(&Request)| {
        let start = Instant::now();
        requests.iter().for_each(find);
        start.elapsed()
    };
    let best = (0..rounds).map(|_| round(&mut find)).min().unwrap_or(Duration::MAX);
    best.as_secs_f64() * 1e9 / requests.len() as f64
}

#[expect(clippy::print_stdout, reason = "the table is the purpose")]
fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let schema = schema();
    let mut table = Vec::new();
    for size in SIZES {
        let routes = routes(size);
        let requests = requests(REQUESTS, size);
        let start = Instant::now();
        let ours = match Router::build(&snapshot(&routes)) {
            Ok(router) => router,
            Err(error) => return println!("{error}"),
        };
        let built = start.elapsed();
        let theirs = match Atc::build(&schema, &routes) {
            Ok(router) => router,
            Err(error) => return println!("{error}"),
        };
        let mut group = criterion.benchmark_group("find");
        let mut at = 0;
        let mut next = || {
            at = (at + 1) % REQUESTS;
            &requests[at]
        };
        group.bench_function(BenchmarkId::new("silverback", size), |bench| {
            bench.iter(|| black_box(ours.find(&next().query())).is_some());
        });
        group.bench_function(BenchmarkId::new("atc-router", size), |bench| {
            bench.iter(|| black_box(theirs.find(next())).is_some());
        });
        group.finish();
        let ours = time(&requests, 50, |request| drop(black_box(ours.find(&request.query()))));
        let theirs = time(&requests, 5, |request| drop(black_box(theirs.find(request))));
        table.push((size, ours, theirs, built));
    }
    criterion.final_summary();

    println!("{:>8} {:>16} {:>16} {:>8} {:>12}", "routes", "silverback ns", "atc-router ns", "ratio", "build ms");
    for (size, ours, theirs, built) in table {
        let built = built.as_secs_f64() * 1e3;
        println!("{size:>8} {ours:>16.0} {theirs:>16.0} {:>8.1} {built:>12.1}", theirs / ours);
    }
}
