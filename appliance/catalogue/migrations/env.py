"""Alembic's entry: runs the migrations on the engine that the catalogue opened."""

from alembic import context

from appliance.catalogue.tables import metadata

with context.config.attributes["engine"].execution_options(curie_write=True).connect() as connection:
    # all steps or none: the engine begins transactions itself, so that SQLite's DDL is in them too
    context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
