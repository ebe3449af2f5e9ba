//! What relations are called.

use super::{Session, SqlError};

impl Session {
    /// The name of a database; `None` when there is none with this number.
    ///
    /// # Errors
    /// A failing statement.
    pub async fn database_name(&self, oid: u32) -> Result<Option<String>, SqlError> {
        let statement = "SELECT datname::text FROM pg_database WHERE oid = $1 AND datallowconn";
        let row = self.client.query_opt(statement, &[&oid]).await?;
        Ok(row.map(|row| row.get(0)))
    }

    /// The name of the session's own database.
    ///
    /// # Errors
    /// A failing statement.
    pub async fn own_database(&self) -> Result<String, SqlError> {
        let row = self
            .client
            .query_one("SELECT current_database()::text", &[])
            .await?;
        Ok(row.get(0))
    }

    /// The name of the relation of the session's database, or of all, whose files have this number in this tablespace;
    /// `None` when there is none.
    ///
    /// # Errors
    /// A failing statement.
    pub async fn relation_name(
        &self,
        tablespace: u32,
        relfilenode: u32,
    ) -> Result<Option<String>, SqlError> {
        let statement = "SELECT pg_filenode_relation($1, $2)::regclass::text";
        let row = self
            .client
            .query_one(statement, &[&tablespace, &relfilenode])
            .await?;
        Ok(row.get(0))
    }
}
