"""Configurations of drafters, whatever their packaging: read without their weights, for engines that run them and for prices that do not."""
