"""What a service needs to answer over gRPC, and to call another."""
