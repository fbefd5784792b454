"""Bills customers by period: invoices, credit notes and their documents."""
