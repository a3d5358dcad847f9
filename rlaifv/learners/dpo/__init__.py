"""Direct preference optimization: collator, batch, losses and LightningModule."""
