"""The response store's tables."""

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, String, Table, Text

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

spending = Table(
    "spending",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("distillation", String(64), nullable=False),
    Column("request_key", String(64), nullable=False),
    Column("reserved_microusd", BigInteger, nullable=False),
    Column("actual_microusd", BigInteger),
    Index("spending_by_distillation", "distillation"),
    Index("spending_by_request", "request_key"),
)
