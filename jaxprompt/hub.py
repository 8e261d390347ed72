"""The Hugging Face hub: downloads, with its failures turned into one clear line."""
