"""What runs have found: pictures, tables and the page that shows them."""
