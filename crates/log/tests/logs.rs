//! The logs as files. One test: the error log is global to the process.

use std::{
    fs,
    time::{Duration, Instant},
};

use silverback_log::{Context, Level, Target, enabled, flush, init, init_streams, reopen, sink, write};

#[test]
fn lines_reach_their_files() {
    let dir = tempfile::tempdir().unwrap();
    let error_path = dir.path().join("error.log");
    let access_path = dir.path().join("access.log");

    init(&Target::File(error_path.clone()), Level::Notice).unwrap();
    assert!(enabled(Level::Notice) && !enabled(Level::Info));
    write(Level::Info, format_args!("not wanted"), None);
    write(Level::Error, format_args!("wanted"), Some(&Context { client: Some("::1".into()), ..Context::default() }));
    flush();
    let text = fs::read_to_string(&error_path).unwrap();
    assert!(text.ends_with("wanted, client: ::1\n"), "{text}");
    assert_eq!(text.lines().count(), 1);

    // streams go where the others go, until they have a log of their own
    let stream = Context { stream: true, ..Context::default() };
    write(Level::Error, format_args!("first stream"), Some(&stream));
    let stream_path = dir.path().join("stream.log");
    init_streams(&Target::File(stream_path.clone())).unwrap();
    write(Level::Error, format_args!("second stream"), Some(&stream));
    flush();
    assert!(fs::read_to_string(&error_path).unwrap().ends_with("first stream\n"));
    assert!(fs::read_to_string(&stream_path).unwrap().ends_with("second stream\n"));

    // two handles on one file are one sink, and lines from many threads stay whole
    let one = sink(&Target::File(access_path.clone())).unwrap().unwrap();
    let other = sink(&Target::File(access_path.clone())).unwrap().unwrap();
    std::thread::scope(|scope| {
        for sink in [&one, &other, &one, &other] {
            scope.spawn(move || (0..1000).for_each(|i| sink.line(format!("line {i:04}"))));
        }
    });
    flush();
    let text = fs::read_to_string(&access_path).unwrap();
    assert_eq!(text.lines().count(), 4000);
    assert!(text.lines().all(|line| line.len() == 9 && line.starts_with("line ")));

    // a rotation: what was handed over before goes to the old file, the rest to the new one
    let rotated = dir.path().join("access.log.1");
    fs::rename(&access_path, &rotated).unwrap();
    one.line("before");
    reopen();
    wait_for(|| access_path.exists());
    one.line("after");
    flush();
    assert!(fs::read_to_string(&rotated).unwrap().ends_with("before\n"));
    assert_eq!(fs::read_to_string(&access_path).unwrap(), "after\n");

    // what does not fit is counted, and the error log says so
    let flood = vec![b'x'; 1 << 20];
    let full = sink(&Target::File("/dev/full".into())).unwrap().unwrap();
    full.line(&flood);
    flush();
    flush();
    let text = fs::read_to_string(&error_path).unwrap();
    assert!(text.contains("[alert]") && text.contains("1 lines for /dev/full were dropped"), "{text}");

    assert!(sink(&Target::Off).unwrap().is_none());
    assert!(sink(&Target::File(dir.path().join("no/such/dir"))).is_err());
}

fn wait_for(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "the condition did not come true in time");
        std::thread::sleep(Duration::from_millis(2));
    }
}
