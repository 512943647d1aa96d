//! A front end that speaks one line per request over TCP.

use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use quire_server::files::{Caller, Error, Files};
use quire_shared::RemotePath;
use quire_shared::digest::DigestKind;
use quire_shared::protocol::{Get, List, Precondition, Preserve, Put};
use quire_test_harness::files;
use quire_transport::body::BodySink;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A front end that runs until it is stopped.
pub(crate) struct LineServer {
    address: SocketAddr,
    serving: JoinSet<()>,
}

impl LineServer {
    /// Serves clients with the rights `rules`.
    pub(crate) async fn start(files: &Files, rules: &str) -> Self {
        Self::start_as(files, files::caller(files, rules)).await
    }

    /// Serves clients as `caller`.
    pub(crate) async fn start_as(files: &Files, caller: Caller) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let files = files.clone();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                serve(BufReader::new(stream), &files, &caller).await;
            }
        });
        Self { address, serving }
    }

    /// Ends it, and returns when it holds nothing of the server any more.
    pub(crate) async fn stop(mut self) {
        self.serving.shutdown().await;
    }

    /// Sends a line and a body, and gives all that is answered.
    pub(crate) async fn ask(&self, line: &str, body: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(line.as_bytes()).await.unwrap();
        stream.write_all(b"\n").await.unwrap();
        stream.write_all(body).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

async fn serve(mut stream: BufReader<TcpStream>, files: &Files, caller: &Caller) {
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    let mut words = line.split_whitespace();
    let verb = words.next().unwrap_or_default();
    let path = RemotePath::parse(words.next().unwrap_or_default()).unwrap();
    let size = words.next().map_or(0, |size| size.parse().unwrap());
    let served = match verb {
        "GET" => get(path, files, caller).await,
        "LIST" => list(path, files, caller).await,
        _ => put(path, size, files, caller, &mut stream).await,
    };
    let answer = match served {
        Ok((count, body)) => [format!("ok {count}\n").into_bytes(), body].concat(),
        Err(error) => format!("error {}\n", error.code().number()).into_bytes(),
    };
    stream.write_all(&answer).await.unwrap();
}

async fn get(path: RemotePath, files: &Files, caller: &Caller) -> Result<(u64, Vec<u8>), Error> {
    let request = Get {
        path,
        offset: 0,
        length: None,
        digest: DigestKind::default(),
        precondition: Precondition::Any,
        digest_from_start: false,
        takes_extents: false,
        details: Default::default(),
    };
    let mut content = files.get(caller, &request).await?;
    let length = content.length();
    let mut body = Vec::new();
    while let Some(piece) = content.next(usize::MAX).await? {
        body.extend_from_slice(&piece);
    }
    content.finish().await?.expect("the file didn't change");
    Ok((length, body))
}

async fn list(path: RemotePath, files: &Files, caller: &Caller) -> Result<(u64, Vec<u8>), Error> {
    let request = List { path, after: None };
    let listing = files.list(caller, request).await?;
    let (part, _) = listing.next(|_| true).await?;
    let names = part.entries.iter().map(|entry| entry.name.as_str());
    let lines: String = names.map(|name| format!("{name}\n")).collect();
    Ok((part.entries.len() as u64, lines.into_bytes()))
}

async fn put(
    path: RemotePath,
    size: usize,
    files: &Files,
    caller: &Caller,
    stream: &mut BufReader<TcpStream>,
) -> Result<(u64, Vec<u8>), Error> {
    // Read first, so that the socket has nothing left when a refusal closes it.
    let mut body = vec![0; size];
    stream.read_exact(&mut body).await.unwrap();
    let request = Put {
        path,
        size: Some(size as u64),
        modified: None,
        mode: None,
        digest: DigestKind::default(),
        precondition: Precondition::Any,
        make_parents: false,
        preserve: Preserve::Usual,
        details: None,
    };
    let mut hasher = request.digest.hasher();
    hasher.update(&body);
    let mut upload = files.put(caller, request).await?;
    upload.write(vec![Bytes::from(body)]).await.unwrap();
    upload.commit(&hasher.finish()).await?;
    Ok((0, Vec::new()))
}
