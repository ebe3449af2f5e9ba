//! Every statement that the agent sends to its server. No DML, no DDL: with an absent synchronous standby
//! any commit record would hang (`postgres-facts` section 1, measured).

pub mod backup;
pub mod facts;
pub mod lineage;
mod names;
pub mod slot;

use std::time::Duration;

use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

use crate::errors::chain;
use crate::pg::conninfo::{self, Conninfo};
use crate::pg::version::Version;

/// Directories in which servers put their sockets by default: Debian's and the project's own.
pub const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// A statement or a connection failed.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    #[error("could not connect to the source's server at {place}")]
    Connect {
        place: String,
        #[source]
        source: tokio_postgres::Error,
    },
    #[error("option \"{0}\" of the connection string is not supported by the agent")]
    Unsupported(String),
    #[error("invalid value \"{value}\" for connection option \"{key}\"")]
    BadValue { key: &'static str, value: String },
    #[error("{}", server_words(source))]
    Statement {
        #[from]
        source: tokio_postgres::Error,
    },
    #[error("the server answered \"{value}\" where {expected} was expected")]
    Unexpected {
        value: String,
        expected: &'static str,
    },
}

impl SqlError {
    /// Whether the server answered and did not let the role in, for another reason than its password: by the method
    /// of `pg_hba.conf`, or since there is no such role (PostgreSQL `auth.c:auth_failed`).
    #[must_use]
    pub fn is_refused_login(&self) -> bool {
        match self {
            SqlError::Connect { source, .. } => {
                source.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
            }
            _ => false,
        }
    }

    /// Whether the session is over.
    #[must_use]
    pub fn is_terminated(&self) -> bool {
        match self {
            SqlError::Statement { source } => {
                source.is_closed() || source.code() == Some(&SqlState::ADMIN_SHUTDOWN)
            }
            _ => false,
        }
    }
}

/// The server's own words where it has any: message, detail and hint.
fn server_words(error: &tokio_postgres::Error) -> String {
    let Some(db) = error.as_db_error() else {
        return chain(error);
    };
    let mut words = db.message().to_owned();
    for more in [db.detail(), db.hint()].into_iter().flatten() {
        words.push_str("; ");
        words.push_str(more);
    }
    words
}

/// The agent's one session. It ends when this value is dropped, and with it the backup and temporary
/// slots.
pub struct Session {
    client: Client,
    version: Version,
}

/// Who the agent is to its server, for what a connection string leaves out.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// Operating system user.
    pub user: String,
    /// Content of the password file, if there is one.
    pub passfile: Option<String>,
}

impl Session {
    /// Connects, and sets every timeout that could end a long backup to zero.
    ///
    /// # Errors
    /// [`SqlError`] when no server answers, the login is refused or the connection string asks for what
    /// the agent does not do (TLS: it is on the server's host).
    pub async fn connect(conninfo: &Conninfo, defaults: &Defaults) -> Result<Self, SqlError> {
        let mut last = None;
        for (place, config) in configs(conninfo, defaults)? {
            match config.connect(NoTls).await {
                Ok((client, connection)) => {
                    // How it ends shows in the statements.
                    tokio::spawn(connection);
                    return Self::prepare(client).await;
                }
                Err(source) => {
                    let is_answer = source.as_db_error().is_some();
                    last = Some(SqlError::Connect { place, source });
                    if is_answer {
                        break;
                    }
                }
            }
        }
        Err(last.unwrap_or(SqlError::Unsupported("host".to_owned())))
    }

    async fn prepare(client: Client) -> Result<Self, SqlError> {
        let number: i32 = client
            .query_one("SELECT current_setting('server_version_num')::int4", &[])
            .await?
            .get(0);
        let version = Version(u32::try_from(number).unwrap_or(0));
        let mut settings = vec![
            "statement_timeout = 0",
            "lock_timeout = 0",
            "idle_in_transaction_session_timeout = 0",
            "search_path = pg_catalog",
            "client_min_messages = warning",
        ];
        if version.major() >= 14 {
            settings.push("idle_session_timeout = 0");
        }
        if version.major() >= 17 {
            settings.push("transaction_timeout = 0");
        }
        let statements: String = settings
            .iter()
            .map(|setting| format!("SET {setting};"))
            .collect();
        client.batch_execute(&statements).await?;
        Ok(Self { client, version })
    }

    /// Names this session in `pg_stat_activity`: a setting of the session, which assigns no transaction.
    ///
    /// # Errors
    /// The server's refusal.
    pub async fn show_as(&self, name: &str) -> Result<(), SqlError> {
        self.client
            .query(
                "SELECT pg_catalog.set_config('application_name', $1, false)",
                &[&name],
            )
            .await?;
        Ok(())
    }

    /// Version of the server.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// A handle that cancels the running statement.
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        Canceller(self.client.cancel_token())
    }
}

/// Cancels the statement that a session is in.
pub struct Canceller(tokio_postgres::CancelToken);

impl Canceller {
    /// Asks the server to cancel. Errors do not matter: the session ends anyway.
    pub async fn cancel(&self) {
        let _ = tokio::time::timeout(Duration::from_secs(2), self.0.cancel_query(NoTls)).await;
    }
}

/// Connection options that the agent makes use of.
const USED: [&str; 11] = [
    "application_name",
    "connect_timeout",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "passfile",
    "password",
    "port",
    "sslmode",
    "user",
];

/// One configuration for each place to try, with its description.
fn configs(
    conninfo: &Conninfo,
    defaults: &Defaults,
) -> Result<Vec<(String, tokio_postgres::Config)>, SqlError> {
    // What would be ignored could lead to another server than was meant.
    if let Some((keyword, _)) = conninfo
        .iter()
        .find(|(keyword, value)| !USED.contains(keyword) && !value.is_empty())
    {
        return Err(SqlError::Unsupported(keyword.to_owned()));
    }
    let user = conninfo.get("user").unwrap_or(&defaults.user);
    let dbname = conninfo.get("dbname").unwrap_or("postgres");
    let port_text = conninfo.get("port").unwrap_or("5432");
    let port: u16 = port_text.parse().map_err(|_| SqlError::BadValue {
        key: "port",
        value: port_text.to_owned(),
    })?;
    let timeout_text = conninfo.get("connect_timeout").unwrap_or("15");
    let connect_timeout = timeout_text.parse().map_err(|_| SqlError::BadValue {
        key: "connect_timeout",
        value: timeout_text.to_owned(),
    })?;
    let connect_timeout = Duration::from_secs(connect_timeout);
    if let Some(mode) = conninfo.get("sslmode")
        && !matches!(mode, "disable" | "allow" | "prefer")
    {
        return Err(SqlError::Unsupported(format!("sslmode={mode}")));
    }
    let hosts: Vec<&str> = match conninfo.get("hostaddr").or_else(|| conninfo.get("host")) {
        Some(hosts) if !hosts.is_empty() => hosts.split(',').collect(),
        _ => SOCKET_DIRECTORIES.to_vec(),
    };
    Ok(hosts
        .into_iter()
        .map(|host| {
            let mut config = tokio_postgres::Config::new();
            config
                .host(host)
                .port(port)
                .user(user)
                .dbname(dbname)
                .ssl_mode(SslMode::Disable)
                .application_name(conninfo.get("application_name").unwrap_or("pg_reseed"))
                .connect_timeout(connect_timeout);
            if let Some(options) = conninfo.get("options") {
                config.options(options);
            }
            let password = match conninfo.get("password") {
                Some(password) => Some(password.to_owned()),
                None => defaults.passfile.as_ref().and_then(|text| {
                    conninfo::passfile_lookup(text, host, port_text, dbname, user)
                }),
            };
            if let Some(password) = password {
                config.password(password);
            }
            let place = format!("\"{host}\" port {port} as \"{user}\"");
            (place, config)
        })
        .collect())
}
