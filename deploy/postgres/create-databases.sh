#!/usr/bin/env bash
# Creates a user and a database for the gateway and another pair for MLflow, of which neither may enter the other's:
# what MLflow's server can be made to do must not reach the audit log. The PostgreSQL image runs this once, when its
# volume is new.
set -euo pipefail

create() {
  # The password goes in through the environment: the arguments of a process can be read by all others.
  OWNER="$1" PASSWORD="$2" psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 \
    --username "${POSTGRES_USER:-postgres}" --dbname "${POSTGRES_DB:-postgres}" <<'SQL'
\getenv owner OWNER
\getenv password PASSWORD
CREATE ROLE :"owner" LOGIN PASSWORD :'password';
CREATE DATABASE :"owner" OWNER :"owner";
REVOKE ALL ON DATABASE :"owner" FROM PUBLIC;
SQL
}

create countersign "${GATEWAY_DATABASE_PASSWORD:?is not set}"
create mlflow "${MLFLOW_DATABASE_PASSWORD:?is not set}"
