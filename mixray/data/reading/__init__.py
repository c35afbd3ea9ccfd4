"""Reading pools: files, JSON lines, Parquet, CSV and Hugging Face data sets become rows and texts, part by part."""
