#!/bin/bash
# Run once by the image of Postgres, when it has made the database: the login of the daemons. `stepd migrate --roles` gives stepd_daemon its rights.
set -euo pipefail
psql -v ON_ERROR_STOP=1 --no-psqlrc --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" -v password="$STEPD_WORKER_PASSWORD" <<'SQL'
CREATE ROLE stepd_daemon NOLOGIN;
CREATE ROLE stepd_worker LOGIN PASSWORD :'password' IN ROLE stepd_daemon;
SQL
