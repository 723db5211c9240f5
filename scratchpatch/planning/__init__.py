"""What a train step would need and cost on chips that are not here."""
