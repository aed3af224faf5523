"""To and from other libraries: whole models for Hugging Face's transformers, adapters for PEFT."""
