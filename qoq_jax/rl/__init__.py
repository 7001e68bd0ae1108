"""Rewards, advantages, losses and rollouts: arrays in, arrays out."""
