"""Measurements that README quotes; results/ holds what they printed."""
