"""Kahneman-Tversky optimization: collator, batch, loss and LightningModule."""
