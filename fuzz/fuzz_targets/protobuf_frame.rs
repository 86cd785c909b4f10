//! What a ProtoBuf server sends: frames, and in them method names, arguments and answers.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use silverback_protocol::{
    method::Method,
    protobuf::{Answer, Step, decode_call, put_result, take_frame, take_step},
};

fuzz_target!(|data: &[u8]| {
    let mut buffer = BytesMut::from(data);
    while let Ok(Some(frame)) = take_frame(&mut buffer, 1 << 20) {
        let _ = Answer::decode(frame);
    }
    let mut buffer = BytesMut::from(data);
    while let Ok(Some(step)) = take_step(&mut buffer, 4096, |name| name.len() << 10) {
        if let Step::Call { name, args } = step {
            let _ = decode_call(&name, args);
        }
    }
    // the same bytes as the arguments of every method, and what they say as every method's result
    for method in Method::all() {
        if let Ok((call, _)) = decode_call(method.name.as_bytes(), data.to_vec().into()) {
            for value in call.args {
                put_result(method, &value.into(), &mut BytesMut::new());
            }
        }
    }
});
