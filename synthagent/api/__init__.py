"""Generated code of the contract, one package a version."""
