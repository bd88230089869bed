"""Papers and projects that the specification cites."""

PAPERS = {
    "Ziegler et al. 2019": "Fine-Tuning Language Models from Human Preferences, arXiv:1909.08593",
    "Stiennon et al. 2020": "Learning to Summarize from Human Feedback, arXiv:2009.01325",
    "InstructGPT": "Ouyang et al. 2022, Training Language Models to Follow Instructions with Human "
    "Feedback, arXiv:2203.02155",
    "Llama 2": "Touvron et al. 2023, Llama 2: Open Foundation and Fine-Tuned Chat Models, "
    "arXiv:2307.09288",
    "N+": "Huang et al. 2024, The N+ Implementation Details of RLHF with PPO, arXiv:2403.17031",
    "Schulman et al. 2016": "High-Dimensional Continuous Control Using Generalized Advantage "
    "Estimation, arXiv:1506.02438",
    "Schulman et al. 2017": "Proximal Policy Optimization Algorithms, arXiv:1707.06347",
    "Schulman 2020": "Approximating KL Divergence, joschu.net/blog/kl-approx.html",
    "Azar et al. 2024": "A General Theoretical Paradigm to Understand Learning from Human "
    "Preferences, arXiv:2310.12036",
    "Ethayarajh et al. 2024": "KTO: Model Alignment as Prospect Theoretic Optimization, "
    "arXiv:2402.01306",
    "Meng et al. 2024": "SimPO: Simple Preference Optimization with a Reference-Free Reward, "
    "arXiv:2405.14734",
    "Hong et al. 2024": "ORPO: Monolithic Preference Optimization without Reference Model, "
    "arXiv:2403.07691",
    "Rafailov et al. 2023": "Direct Preference Optimization: Your Language Model is Secretly a "
    "Reward Model, arXiv:2305.18290",
    "Ahmadian et al. 2024": "Back to Basics: Revisiting REINFORCE Style Optimization for Learning "
    "from Human Feedback in LLMs, arXiv:2402.14740",
    "GRPO": "Shao et al. 2024, DeepSeekMath, arXiv:2402.03300",
    "Dr. GRPO": "Liu et al. 2025, Understanding R1-Zero-Like Training: A Critical Perspective, "
    "arXiv:2503.20783",
    "DAPO": "Yu et al. 2025, DAPO: An Open-Source LLM Reinforcement Learning System at Scale, "
    "arXiv:2503.14476",
    "Coste et al. 2023": "Reward Model Ensembles Help Mitigate Overoptimization, arXiv:2310.02743",
    "Eisenstein et al. 2023": "Helping or Herding? Reward Model Ensembles Mitigate but do not "
    "Eliminate Reward Hacking, arXiv:2312.09244",
    "PAR": "Fu et al. 2025, Reward Shaping to Mitigate Reward Hacking in RLHF, arXiv:2502.18770",
    "ABC": "Chan et al. 2024, Dense Reward for Free in Reinforcement Learning from Human "
    "Feedback, arXiv:2402.00782",
    "Ng et al. 1999": "Policy Invariance under Reward Transformations, ICML 1999",
}

PROJECTS = {  # the commit at which "file:line" was read
    "lm-human-preferences (the code of Ziegler et al. 2019)": "cbfd210",
    "lm-human-preference-details": "ccc1953",
    "summarize_from_feedback_details (the code of N+)": "ee77a9a",
    "TRL (trl/experimental/ppo, deleted since)": "f2cd577",
    "OpenRLHF": "3c3be62",
    "open-instruct": "e6c3044",
    "torchtune": "bd2a0fc",
    "trlX": "3340c2f",
    "AlpacaFarm": "30717dd",
    "minChatGPT": "311aa3a",
    "minRLHF": "ac03ca0",
    "RLHF_in_notebooks": "f73d8ed",
    "PaLM-rlhf-pytorch": "bd0d0f3",
    "rlhf-book": "a66b0bf",
    "GRPO-Zero": "d41bb48",
    "direct-preference-optimization": "f8b8c0f",
    "LLMs-from-scratch": "28c65cd",
    "nanochat": "92d63d4",
    "llm_optimization": "416b03c",
    "attention-based-credit": "0a08591",
}
