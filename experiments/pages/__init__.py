"""What a reader looks at: tables, charts as SVG, and one HTML page that holds them."""
