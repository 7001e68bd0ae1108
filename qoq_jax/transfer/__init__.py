"""CLIMB's experiments: multitask pretraining, few-shot transfer, fusion."""
