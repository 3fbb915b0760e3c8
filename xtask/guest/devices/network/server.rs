//! The other end, on the host.

use std::io::{self, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;

use super::{Job, datagrams, requests, round_trips, tell};
use crate::say;

/// Serves until standard input ends. Says its port first.
pub fn serve() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    say(&format!("@port {port}"));
    thread::spawn(move || {
        // One after the other but for those that take time, as a server of documents would.
        for stream in listener.incoming().map_while(Result::ok) {
            take_on(stream);
        }
    });
    let _ = io::copy(&mut io::stdin(), &mut io::sink());
}

fn take_on(mut stream: TcpStream) {
    let mut request = [0; 11];
    if stream.read_exact(&mut request).is_err() {
        return;
    }
    let [job, count @ .., low, high] = request;
    let (count, port) = (u64::from_le_bytes(count), u16::from_le_bytes([low, high]));
    let job = Job::ALL.into_iter().find(|known| *known as u8 == job).expect("both ends are one program");
    if job == Job::Document {
        requests::answer(&mut stream);
    } else {
        thread::spawn(move || work(stream, job, count, port));
    }
}

fn work(mut stream: TcpStream, job: Job, count: u64, port: u16) {
    stream.set_nodelay(true).expect("it is a TCP connection");
    match job {
        Job::Echo => round_trips::echo(&mut stream),
        Job::Document => {}
        Job::Fetch => {
            let bytes = requests::fetch(count, || {
                TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the guest's port is published")
            });
            tell(&mut stream, bytes);
        }
        Job::TakeDatagrams | Job::GiveDatagrams | Job::EchoDatagrams => {
            let socket = datagrams::accept(Ipv4Addr::LOCALHOST.into(), &mut stream);
            match job {
                Job::TakeDatagrams => drop(datagrams::take(&socket, &mut stream, count)),
                Job::GiveDatagrams => drop(datagrams::give(&socket, &mut stream, count)),
                _ => datagrams::echo(&socket, &stream),
            }
        }
    }
}
