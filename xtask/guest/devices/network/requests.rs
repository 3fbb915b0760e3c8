//! Small documents, as a web server has them: a connection, a request, an answer, the end.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

/// What is asked for, and what comes.
const REQUEST: &[u8] = b"GET /index.html HTTP/1.0\r\nHost: server\r\nAccept: */*\r\n\r\n";
const HEAD: &[u8] = b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\nContent-Length: 1024\r\n\r\n";
const BODY: usize = 1024;

/// Fetches so many documents, each by a connection of `connect`: the bytes of all of them.
pub fn fetch(count: u64, connect: impl Fn() -> TcpStream) -> u64 {
    let mut document = Vec::new();
    let mut bytes = 0;
    for _ in 0..count {
        let mut stream = connect();
        stream.write_all(REQUEST).expect("the server reads");
        document.clear();
        stream.read_to_end(&mut document).expect("the server answers");
        assert!(document.starts_with(HEAD) && document.len() == HEAD.len() + BODY, "it is the document");
        bytes += document.len() as u64;
    }
    bytes
}

/// Serves so many.
pub fn serve(listener: &TcpListener, count: u64) {
    for _ in 0..count {
        answer(&mut listener.accept().expect("somebody asks").0);
    }
}

/// Answers one request.
pub fn answer(stream: &mut TcpStream) {
    let mut request = [0; REQUEST.len()];
    stream.read_exact(&mut request).expect("the request is whole");
    assert_eq!(request, REQUEST, "it is the request");
    let mut document = HEAD.to_vec();
    document.resize(HEAD.len() + BODY, b'x');
    stream.write_all(&document).expect("the client reads");
}
