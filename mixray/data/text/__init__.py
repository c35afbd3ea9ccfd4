"""Text: documents, duplicates, the tokenizer, tokens and windows."""
