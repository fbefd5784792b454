"""The demo: a month of traffic of four customers, from the gate to invoices that reconcile."""
