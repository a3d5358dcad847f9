"""The policy as a LightningModule: supervised fine-tuning on trees, all targets of a prompt as branches of one prefix."""

from torch import Tensor

from rlaifv.learners.policy import PolicyModule
from rlaifv.learners.sft.batch import TargetBatch
from rlaifv.models.loading import backbone
from rlaifv.models.tree.packing import branch_logps
from rlaifv.records import Target


class SFTModule(PolicyModule):
    """Minimise the negative log-likelihood of target answers, averaged over their tokens; prompts carry no loss."""

    record_name = "targets"

    def units(self, record: Target) -> int:
        return len(record.token_ids)

    def training_step(self, batch: TargetBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch. Raises NonFiniteLoss instead of letting NaN or infinity reach a gradient."""
        logps = branch_logps(backbone(self.policy), batch.trees, batch.images)
        loss = -logps.mean()
        if not batch.images:
            loss = self.reaching_all_parameters(loss)
        self.refuse_non_finite_loss(loss, batch.record_ids)
        self.log("loss", loss, batch_size=len(logps), sync_dist=True)
        return loss * self.batch_weight
