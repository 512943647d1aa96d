//! Lists a directory of a quire server and downloads a file from it.
#![allow(clippy::print_stdout, reason = "it is a program")]

use std::error::Error;
use std::path::Path;

use quire_client::protocol::List;
use quire_client::{Client, Name, RemotePath};

/// Lists `directory` on `server` and downloads the file `name` from it.
async fn fetch(server: &str, directory: &str, name: &str) -> Result<(), Box<dyn Error>> {
    let client = Client::builder(server.parse()?).connect().await?;
    let directory = RemotePath::parse(directory)?;

    let list = List {
        path: directory.clone(),
        ..List::default()
    };
    let mut listing = client.list(list).await?;
    while let Some(entry) = listing.next().await? {
        println!("{:>12} {}", entry.attributes.size, entry.name);
    }

    let file = directory.join(Name::new(name)?)?;
    let fetched = client.download(file).to_file(Path::new(name)).await?;
    println!("{} bytes, digest {}", fetched.bytes, fetched.digest);

    client.close().await;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [server, directory, name] => fetch(server, directory, name).await,
        _ => Err("usage: fetch HOST:PORT DIRECTORY FILE".into()),
    }
}
