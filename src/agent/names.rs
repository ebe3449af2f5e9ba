//! What the relations are called whose files a client asks for: by SQL, in the database of each.

use std::time::Duration;

use super::options::ServeOptions;
use crate::sql::Session;
use crate::wire::message::{RelationName, RelationNumber};

/// Most databases that are connected to for it.
const DATABASES_MAX: usize = 50;

/// How long one of them may take: names are a courtesy.
const SAID_WITHIN: Duration = Duration::from_secs(10);

/// The names, as far as the role may ask for them.
pub async fn names(
    sql: &Session,
    options: &ServeOptions,
    files: &[RelationNumber],
) -> Vec<Option<RelationName>> {
    let mut names = vec![None; files.len()];
    let mut databases: Vec<u32> = files.iter().map(|file| file.database).collect();
    databases.sort_unstable();
    databases.dedup();
    for database in databases.into_iter().take(DATABASES_MAX) {
        let asked = of_database(sql, options, database, files, &mut names);
        if tokio::time::timeout(SAID_WITHIN, asked).await.is_err() {
            tracing::debug!("database {database} took too long to tell names");
        }
    }
    names
}

async fn of_database(
    sql: &Session,
    options: &ServeOptions,
    database: u32,
    files: &[RelationNumber],
    names: &mut [Option<RelationName>],
) {
    // What all databases share is known to each.
    let name = match database {
        0 => sql.own_database().await.ok(),
        oid => sql.database_name(oid).await.ok().flatten(),
    };
    let Some(name) = name else { return };
    let own = sql.own_database().await.unwrap_or_default();
    let other = if name == own {
        None
    } else {
        let mut conninfo = options.dbname.clone();
        if conninfo.set("dbname", &name).is_err() {
            return;
        }
        match Session::connect(&conninfo, &options.defaults()).await {
            Ok(session) => Some(session),
            Err(error) => {
                tracing::debug!("could not ask database \"{name}\" for names: {error}");
                return;
            }
        }
    };
    let session = other.as_ref().unwrap_or(sql);
    for (file, place) in files.iter().zip(names) {
        if file.database != database {
            continue;
        }
        let found = session.relation_name(file.tablespace, file.relfilenode);
        *place = found.await.ok().flatten().map(|relation| RelationName {
            database: name.clone(),
            relation,
        });
    }
}
