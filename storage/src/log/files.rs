//! Small files beside the segments: written whole, durable before anyone relies on them.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use corelog_runtime::{OpenOptions, Rt};

use crate::guard::is_passing;
use crate::log::api::is_no_space;

/// Suffix of a file being written; found after a crash, it is removed.
pub(crate) const TEMPORARY: &str = "tmp";
/// Largest index file read: 10 MiB is Kafka's default, 1 GiB its bound; ours never exceed this.
pub(crate) const INDEX_BYTES_MAX: usize = 64 << 20;
/// Largest producer snapshot read.
pub(crate) const SNAPSHOT_BYTES_MAX: usize = 64 << 20;

pub(crate) fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(TEMPORARY);
    name.into()
}

/// Writes files anew: each under a temporary name and flushed, then renamed, then one fsync of the
/// directory. After a crash each holds its old bytes or its new ones.
pub(crate) async fn replace_files(
    rt: &Rt,
    dir: &Path,
    files: Vec<(PathBuf, Vec<u8>)>,
) -> io::Result<()> {
    let options = OpenOptions {
        write: true,
        create: true,
        truncate: true,
        ..OpenOptions::default()
    };
    for (path, bytes) in files {
        let temporary = temporary(&path);
        let file = rt.open(&temporary, options).await?;
        if !bytes.is_empty() {
            file.write_at(vec![Bytes::from(bytes)], 0, false).await?;
        }
        file.fdatasync().await?;
        drop(file);
        rt.rename(&temporary, &path).await?;
    }
    rt.sync_dir(dir).await
}

/// As [`replace_files`], for what can be rebuilt from the log: without space, or without a descriptor
/// to be had, the files are removed instead, because a stale one would be believed.
pub(crate) async fn replace_derived_files(
    rt: &Rt,
    dir: &Path,
    files: Vec<(PathBuf, Vec<u8>)>,
) -> io::Result<()> {
    let paths: Vec<PathBuf> = files.iter().map(|(path, _)| path.clone()).collect();
    match replace_files(rt, dir, files).await {
        Err(error) if is_no_space(&error) || is_passing(&error) => {
            tracing::warn!(dir = %dir.display(), %error, "index files will be rebuilt when they are needed");
            for path in paths {
                unlink_if_there(rt, &temporary(&path)).await?;
                unlink_if_there(rt, &path).await?;
            }
            rt.sync_dir(dir).await
        }
        result => result,
    }
}

/// Removes a file; that it is not there is fine.
pub(crate) async fn unlink_if_there(rt: &Rt, path: &Path) -> io::Result<()> {
    match rt.unlink(path).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Renames a file out of the way under a suffix; never over another one.
pub(crate) async fn set_aside(rt: &Rt, path: &Path, suffix: &str) -> io::Result<Option<PathBuf>> {
    for n in 0..1000 {
        let mut name = path.as_os_str().to_owned();
        name.push(if n == 0 {
            format!(".{suffix}")
        } else {
            format!(".{suffix}{n}")
        });
        let to = PathBuf::from(name);
        match rt.stat(&to).await {
            Ok(_) => continue,
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(_) => {}
        }
        return match rt.rename(path, &to).await {
            Ok(()) => Ok(Some(to)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
    }
    Err(io::Error::new(
        io::ErrorKind::AlreadyExists,
        "a thousand files were set aside under this name",
    ))
}
