"""What goes before a text when a checkpoint is evaluated on MTEB or BRIGHT: the instruction to generate.

In: nothing. Out: `EVALUATION`, prompts by the names that mteb looks for: `Task-query`, `Task-document`, `Task`.
Saved among a checkpoint's prompts, they make `mteb run` on the plain sentence-transformers folder give the scores of
`foresay evaluate`. They ask for what the embedding should stand for, such as the text that would answer or the label
that would fit; instructions for other embedders ask for a search.
"""

from collections.abc import Mapping

_SHOWN = 8
"""Names of prompts in a message."""
DOCUMENT = "Summarize the following passage: "
_QUESTION = "Summarize the question that is asked here: "
_THREAD = "Write a forum post about the same problem as this one: "
_SIMILAR = "Write a sentence that means the same as this one: "
_TOPIC = "Name the topic of this {}: "
_SOLVE = "Reason about this {} step by step, and write what has to be known to answer it: "

_QUERIES = {  # what to write for a query; documents get DOCUMENT, or what _DOCUMENTS says
    "ArguAna": "Write an argument that refutes this one: ",
    "AskUbuntuDupQuestions": "Write another question about the same Ubuntu problem as this one: ",
    "CQADupstackGamingRetrieval": _THREAD,
    "CQADupstackUnixRetrieval": _THREAD,
    "ClimateFEVERHardNegatives": "Write an encyclopedia passage that confirms or refutes this claim on climate: ",
    "FEVERHardNegatives": "Write an encyclopedia passage that confirms or refutes this claim: ",
    "FiQA2018": "Write an answer to this question on finance: ",
    "HotpotQAHardNegatives": "Write an encyclopedia passage with the facts that this question needs: ",
    "MindSmallReranking": "Write the headline of another news article for a reader of this one: ",
    "SCIDOCS": "Write the abstract of a paper that the paper with this title would cite: ",
    "TRECCOVID": "Write the abstract of a COVID-19 study that answers this query: ",
    "Touche2020Retrieval.v3": "Write an argument, for or against, that answers this question: ",
    "BrightBiologyRetrieval": _SOLVE.format("question on biology"),
    "BrightEarthScienceRetrieval": _SOLVE.format("question on earth science"),
    "BrightEconomicsRetrieval": _SOLVE.format("question on economics"),
    "BrightPsychologyRetrieval": _SOLVE.format("question on psychology"),
    "BrightRoboticsRetrieval": _SOLVE.format("question on robotics"),
    "BrightStackoverflowRetrieval": _SOLVE.format("question on programming"),
    "BrightSustainableLivingRetrieval": _SOLVE.format("question on sustainable living"),
    "BrightPonyRetrieval": "Write the part of the Pony language's manual that this task needs: ",
    "BrightLeetcodeRetrieval": "Write a programming problem that is solved in the same way as this one: ",
    "BrightAopsRetrieval": "Write a mathematical problem that is solved in the same way as this one: ",
    "BrightTheoremQATheoremsRetrieval": "Write the theorem that solves this problem: ",
    "BrightTheoremQAQuestionsRetrieval": "Write a problem that the same theorem solves as this one: ",
    "BrightRetrieval": _SOLVE.format("question"),
}
_DOCUMENTS = {
    "AskUbuntuDupQuestions": _QUESTION,
    "CQADupstackGamingRetrieval": _QUESTION,
    "CQADupstackUnixRetrieval": _QUESTION,
}
_TEXTS = {  # where both sides of a comparison are alike, or there is only one
    "BIOSSES": "Write a sentence from a biomedical paper that means the same as this one: ",
    **dict.fromkeys(("SICK-R", "STS12", "STS13", "STS14", "STS15", "STS17", "STSBenchmark"), _SIMILAR),
    "STS22.v2": "Write a news article that reports the same as this one: ",
    "SummEvalSummarization.v2": "Write a summary that says the same as this one: ",
    "SprintDuplicateQuestions": "Write another question that asks the same as this one: ",
    "TwitterSemEval2015": "Write a tweet that says the same as this one: ",
    "TwitterURLCorpus": "Write a tweet about the same link as this one: ",
    "AmazonCounterfactualClassification": "Say whether this product review speaks of what did not happen: ",
    "Banking77Classification": "Say what the customer of a bank wants who writes this: ",
    "ImdbClassification": "Say whether this film review is positive or negative: ",
    "MTOPDomainClassification": "Say which part of a digital assistant this request is for: ",
    "MassiveIntentClassification": "Say what the user of a digital assistant wants who says this: ",
    "MassiveScenarioClassification": "Say which everyday situation this request to a digital assistant belongs to: ",
    "ToxicConversationsClassification": "Say whether this comment is toxic: ",
    "TweetSentimentExtractionClassification": "Say whether this tweet is positive, negative or neutral: ",
    "ArXivHierarchicalClusteringP2P": _TOPIC.format("paper, of which you see title and abstract"),
    "ArXivHierarchicalClusteringS2S": _TOPIC.format("paper, of which you see the title"),
    "BiorxivClusteringP2P.v2": _TOPIC.format("biology paper, of which you see title and abstract"),
    "MedrxivClusteringP2P.v2": _TOPIC.format("medical paper, of which you see title and abstract"),
    "MedrxivClusteringS2S.v2": _TOPIC.format("medical paper, of which you see the title"),
    "StackExchangeClustering.v2": _TOPIC.format("question from a forum"),
    "StackExchangeClusteringP2P.v2": _TOPIC.format("post in a forum"),
    "TwentyNewsgroupsClustering.v2": _TOPIC.format("message, of which you see the subject"),
}

EVALUATION: dict[str, str] = {
    **{f"{task}-query": prompt for task, prompt in _QUERIES.items()},
    **{f"{task}-document": _DOCUMENTS.get(task, DOCUMENT) for task in _QUERIES},
    **_TEXTS,
}
"""Prompts of MTEB(eng, v2) and BRIGHT, by mteb's names; `dict(EVALUATION)` belongs into a checkpoint's prompts."""


def some_names(prompts: Mapping[str, str], where: str) -> str:
    """Names of prompts for a message, the shortest first; a checkpoint may have hundreds, and `where` has them all."""
    names = sorted(prompts, key=lambda name: (len(name), name))
    more = f" and {len(names) - _SHOWN} more, see {where}" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
