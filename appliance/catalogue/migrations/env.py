"""Alembic's entry: runs the migrations on the engine that the catalogue opened."""

from alembic import context

from appliance.catalogue.tables import metadata

with context.config.attributes["engine"].execution_options(curie_write=True).connect() as connection:
    context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=False)
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
