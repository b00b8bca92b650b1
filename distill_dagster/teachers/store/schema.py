"""The response store's tables."""

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, MetaData, String, Table, Text

metadata = MetaData()

responses = Table(
    "responses",
    metadata,
    Column("request_key", String(64), primary_key=True),
    Column("provider", String(64), nullable=False),
    Column("model", Text, nullable=False),
    Column("identity", String(64), nullable=False),
    Column("status", String(16), nullable=False),
    Column("stop_reason", String(64)),
    Column("text", Text),
    Column("thinking", Text),
    Column("content", Text, nullable=False),
    Column("token_ids", LargeBinary),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cost_microusd", BigInteger, nullable=False),
    Column("cache_write_tokens", BigInteger),
    Column("cache_read_tokens", BigInteger),
    Column("detail", Text),
    Column("response_id", Text),
    Column("transport", String(32), nullable=False),
    Column("client_version", String(64), nullable=False),
    Column("created_at", String(32), nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("owner", String(128), nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)

# What was reserved for each request and what it came to; `accounts` keeps the sums, so that a claim need not add up.
spending = Table(
    "spending",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("distillation", String(64), nullable=False),
    Column("request_key", String(64), nullable=False),
    Column("reserved_microusd", BigInteger, nullable=False),
    Column("actual_microusd", BigInteger),
    Column("run", String(64)),
    # Both columns in one index: with one each, SQLite may walk through all of a distillation's rows for every request.
    Index("spending_by_account", "distillation", "request_key"),
    Index("spending_by_request", "request_key"),
)

accounts = Table(
    "accounts",
    metadata,
    Column("distillation", String(64), primary_key=True),
    Column("committed_microusd", BigInteger, nullable=False),
)

# The batch ledger. `intended` → `created` → `ended` → `ingested`; `abandoned` where a batch was never made.
batches = Table(
    "batches",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("distillation", String(64), nullable=False),
    Column("identity", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("requests", Integer, nullable=False),
    Column("provider_id", String(128), unique=True),
    Column("adopted", Boolean, nullable=False),
    Column("not_ours", Text, nullable=False),
    Column("intended_at", BigInteger, nullable=False),
    Column("sent_at", BigInteger),
    Column("created_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("ingested_at", BigInteger),
    Column("counts", Text),
    Column("run", String(64)),
    Index("batches_by_state", "state", "identity"),
)

# The requests of batches that are not ingested: whoever stands here is asked by nobody else.
batch_requests = Table(
    "batch_requests",
    metadata,
    Column("request_key", String(64), primary_key=True),
    Column("batch", String(32), nullable=False),
    Index("batch_requests_by_batch", "batch"),
)
