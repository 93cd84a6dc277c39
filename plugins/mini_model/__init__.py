"""`mini`: a language model of about a million parameters, trained to show the classic heads."""
