"""Services outside: registers of tax ids, and tax engines. None is needed."""
