"""What Alembic runs to apply migrations: on the connection that it is given, in the caller's transaction."""

from alembic import context

from self_healing_fabric.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
