"""The API's documents, made from the types of protocol/ and the handlers' own words: nothing is said twice."""
